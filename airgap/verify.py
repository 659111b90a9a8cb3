"""Checks a bundle, unpacked or not, file by file against its own lists.

``python3 -m airgap.verify DIRECTORY`` runs on any system with Python 3.10: standard library only.
"""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import io
import os
import stat
import sys
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from airgap.errors import AirgapError, ManifestError, VerificationError
from airgap.hashing import sha256_of_bytes
from airgap.manifest import BUNDLE_DIRECTORY, CHECKSUMS_NAME, MANIFEST_NAME, Manifest, ManifestFile

SIGNATURE_NAME = f"{CHECKSUMS_NAME}.sig"
_BLOCK_BYTES = 1024 * 1024
_MOST_NAMED = 20
# The lists are read before anything is known of them: more than this is no list of ours.
_LARGEST_LIST = 64 * 1024 * 1024

# What the operator makes by following the README, and what Python and Ansible leave behind. Nothing else may be added:
# Ansible loads variables, roles and modules from beside the playbooks without being told to.
_ADDED_FILES = ("ansible/inventory.yml", "ansible/secrets.yml", "ansible/*.retry")
_ADDED_DIRECTORIES = ("__pycache__", ".ansible")


@dataclass(frozen=True)
class Receipt:
    """What was verified."""

    bundle_version: str
    digest: str
    """SHA-256 of SHA256SUMS: one number that stands for every byte of the bundle."""
    files: int
    size: int
    """Bytes of all files."""
    interpreter: str
    targets: tuple[str, ...]

    def __str__(self) -> str:
        """Return the receipt for people, a few lines."""
        return (
            f"bundle   {self.bundle_version}\n"
            f"digest   {self.digest}\n"
            f"files    {self.files} ({self.size} bytes), all as listed\n"
            f"python   {self.interpreter}\n"
            f"targets  {', '.join(self.targets)}"
        )


@dataclass(frozen=True)
class Bundle:
    """A verified bundle."""

    manifest: Manifest
    receipt: Receipt


@dataclass(frozen=True)
class _Found:
    """A file that is there."""

    sha256: str
    size: int


def verify(path: Path) -> Bundle:
    """Verify the bundle at *path*, an archive or a directory; errors as in the functions for each."""
    return verify_directory(path) if path.is_dir() else verify_archive(path)


def verify_directory(root: Path) -> Bundle:
    """Verify the unpacked bundle in *root*.

    Raises VerificationError naming each file that is damaged, missing, or should not be there, and ManifestError when
    its lists cannot be read.
    """
    lists = {name: _read_list(root / name) for name in (MANIFEST_NAME, CHECKSUMS_NAME)}
    problems: list[str] = []
    paths = sorted(_walk(root, problems))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(paths, pool.map(lambda path: _hash_file(root / path), paths), strict=True))
    return _judge(str(root), lists, found, problems)


def verify_archive(path: Path) -> Bundle:
    """Verify the bundle in the archive at *path*, without unpacking it.

    Raises VerificationError when the archive is truncated or damaged, holds anything but plain files below its one
    directory, or does not hold what its lists say.
    """
    lists: dict[str, bytes] = {}
    found: dict[str, _Found] = {}
    problems: list[str] = []
    try:
        with _open_archive(path) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                name = _name_in_bundle(member, problems)
                if name is None:
                    continue
                if name in found:
                    problems.append(f"{name} is there twice")
                source = tar.extractfile(member)
                if source is None:
                    problems.append(f"{name} is no plain file")
                    continue
                if name in (MANIFEST_NAME, CHECKSUMS_NAME) and member.size <= _LARGEST_LIST:
                    lists[name] = source.read()
                    source = io.BytesIO(lists[name])
                found[name] = _hash_stream(source)
            # To the end of the stream: gzip's own checksum comes last, and a truncated archive shows here.
            while stream.read(_BLOCK_BYTES):
                pass
    except FileNotFoundError:
        raise VerificationError(f"{path} does not exist: name a bundle.") from None
    except (EOFError, tarfile.TarError, zlib.error, gzip.BadGzipFile) as error:
        raise VerificationError(
            f"{path} is truncated or damaged ({error}): copy it over again and compare the sizes."
        ) from error
    except OSError as error:
        raise VerificationError(f"{path} cannot be read ({error.strerror or error}): copy it over again.") from error
    for name in (MANIFEST_NAME, CHECKSUMS_NAME):
        if name not in lists:
            raise VerificationError(f"{path} has no {BUNDLE_DIRECTORY}/{name}: it is no bundle, or not a whole one.")
    return _judge(str(path), lists, found, problems)


def parse_checksums(content: bytes, origin: str) -> dict[str, str]:
    """Return path and SHA-256 of each line of a SHA256SUMS file; raise ManifestError for a line that is none."""
    sums: dict[str, str] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64 or name in sums:
            raise ManifestError(
                f"{origin}/{CHECKSUMS_NAME}, line {number}, is no checksum: carry the bundle over again."
            )
        sums[name] = digest
    return sums


def _judge(origin: str, lists: dict[str, bytes], found: dict[str, _Found], problems: list[str]) -> Bundle:
    manifest = Manifest.from_json(lists[MANIFEST_NAME].decode("utf-8", "replace"), f"{origin}/{MANIFEST_NAME}")
    sums = parse_checksums(lists[CHECKSUMS_NAME], origin)
    listed = {file.path: file for file in manifest.files}
    wanted = {path: file.sha256 for path, file in listed.items()}
    wanted[MANIFEST_NAME] = sha256_of_bytes(lists[MANIFEST_NAME])
    for path in sorted(wanted.keys() | sums.keys()):
        if wanted.get(path) != sums.get(path):
            problems.append(f"{path} is listed differently in {MANIFEST_NAME} and {CHECKSUMS_NAME}")
    for path in sorted(sums.keys() | wanted.keys()):
        problems.extend(_problems_of(path, sums.get(path), listed.get(path), found.get(path)))
    unlisted = found.keys() - sums.keys() - wanted.keys() - {CHECKSUMS_NAME, SIGNATURE_NAME}
    problems.extend(f"{path} should not be there" for path in sorted(unlisted) if not _may_be_added(path))
    if problems:
        named = "; ".join(problems[:_MOST_NAMED])
        more = f"; and {len(problems) - _MOST_NAMED} more" if len(problems) > _MOST_NAMED else ""
        raise VerificationError(f"{origin} is not the bundle that was built: {named}{more}. Carry it over again.")
    receipt = Receipt(
        bundle_version=manifest.bundle_version,
        digest=sha256_of_bytes(lists[CHECKSUMS_NAME]),
        files=len(sums) + 1,
        size=sum(found[path].size for path in sums) + len(lists[CHECKSUMS_NAME]),
        interpreter=manifest.interpreter,
        targets=tuple(target.name for target in manifest.targets),
    )
    return Bundle(manifest, receipt)


def _problems_of(path: str, sha256: str | None, listed: ManifestFile | None, found: _Found | None) -> Iterator[str]:
    if found is None:
        yield f"{path} is missing"
    elif sha256 is not None and found.sha256 != sha256:
        yield f"{path} is damaged"
    elif listed is not None and listed.size != found.size:
        yield f"{path} has another size than listed"


def _may_be_added(path: str) -> bool:
    parts = path.split("/")
    if any(part in _ADDED_DIRECTORIES for part in parts[:-1]):
        return True
    return any(fnmatch.fnmatchcase(path, pattern) and path.count("/") == 1 for pattern in _ADDED_FILES)


def _read_list(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise VerificationError(
            f"{path} is missing or cannot be read ({error.strerror}): {path.parent} is no bundle, or not a whole one."
        ) from error


def _walk(root: Path, problems: list[str]) -> Iterator[str]:
    """Yield the plain files below *root*; anything that is neither file nor directory becomes a problem."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(root / prefix) as entries:
            for entry in entries:
                path = prefix + entry.name
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    if entry.name not in _ADDED_DIRECTORIES:
                        pending.append(f"{path}/")
                elif stat.S_ISREG(mode):
                    yield path
                else:
                    problems.append(f"{path} is no plain file")


def _hash_file(path: Path) -> _Found:
    try:
        with path.open("rb") as stream:
            return _hash_stream(stream)
    except OSError as error:
        raise VerificationError(f"{path} cannot be read ({error.strerror}): carry the bundle over again.") from error


def _hash_stream(stream: IO[bytes]) -> _Found:
    digest, size = hashlib.sha256(), 0
    while block := stream.read(_BLOCK_BYTES):
        digest.update(block)
        size += len(block)
    return _Found(digest.hexdigest(), size)


def _open_archive(path: Path) -> IO[bytes]:
    with path.open("rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if compressed else path.open("rb")  # type: ignore[return-value]  # GzipFile reads


def _name_in_bundle(member: tarfile.TarInfo, problems: list[str]) -> str | None:
    """Return the path below the bundle's directory of a plain file; None for directories and for what is refused."""
    parts = member.name.split("/")
    if member.name.startswith("/") or ".." in parts or parts[0] != BUNDLE_DIRECTORY:
        problems.append(f"{member.name} leaves {BUNDLE_DIRECTORY}/")
    elif member.isdir():
        return None
    elif not member.isreg():
        problems.append(f"{member.name} is no plain file")
    else:
        return "/".join(parts[1:])
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify the bundle that the first argument names, print the receipt or what is wrong, return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 1 or given[0].startswith("-"):
        print("usage: python3 -m airgap.verify BUNDLE", file=sys.stderr)
        return 2
    try:
        print(verify(Path(given[0])).receipt)
    except AirgapError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
