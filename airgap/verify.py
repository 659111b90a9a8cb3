"""Checks a bundle, unpacked or not, file by file against its own lists, and its lists against their signature.

``python3 -B -m airgap.verify BUNDLE`` runs on any system with Python 3.10: standard library only.
"""

from __future__ import annotations

import argparse
import fnmatch
import gzip
import hashlib
import io
import os
import re
import stat
import sys
import tarfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from airgap.errors import AirgapError, ManifestError, SignatureError, VerificationError
from airgap.hashing import sha256_of_bytes
from airgap.manifest import BUNDLE_DIRECTORY, CHECKSUMS_NAME, MANIFEST_NAME, Manifest, ManifestFile
from airgap.read_ahead import read_ahead
from airgap.signature import (
    BUNDLE_NAMESPACE,
    SIGNATURE_NAME,
    site_signers,
    unchecked_signer,
    verify_signature,
)
from airgap.volumes import find_volumes

SBOM_NAME = "sbom.cdx.json"
LISTS = (MANIFEST_NAME, CHECKSUMS_NAME, SIGNATURE_NAME)
_BLOCK_BYTES = 1024 * 1024
_MOST_NAMED = 20
# The lists are read before anything is known of them: more than this is no list of ours.
_LARGEST_LIST = 64 * 1024 * 1024

# What the operator makes by following the README, in the directory that is worked in: nobody has signed it, so it is
# never taken from an archive. Nothing else may be added: Ansible loads variables, roles and modules from beside the
# playbooks without being told to.
_ADDED_FILES = ("ansible/inventory.yml", "ansible/secrets.yml", "ansible/*.retry")
# Python compiles plugins of Ansible that it loads in the controller's own process. Nobody can tell whether such a file
# is what it says, so it is not accepted but named, for the installer to remove.
_COMPILED = re.compile(r"(?P<directory>ansible/(?:[^/]+/)*)__pycache__/(?P<module>[^/.]+)\.[^/]+\.pyc")


@dataclass(frozen=True)
class Receipt:
    """What was verified. The same bundle has the same receipt, packed and unpacked, signed off anywhere."""

    bundle_version: str
    digest: str
    """SHA-256 of SHA256SUMS: one number that stands for every byte of the bundle."""
    files: int
    size: int
    """Bytes of all files."""
    signer: str
    sbom: str
    """SHA-256 of the software bill of materials."""
    interpreter: str
    targets: tuple[str, ...]
    base: str | None
    """SHA-256 of the have.json that a delta was built against."""

    def __str__(self) -> str:
        """Return the receipt for people, a few lines."""
        return (
            f"bundle   {self.bundle_version}\n"
            f"digest   {self.digest}\n"
            f"files    {self.files} ({self.size} bytes), all as listed\n"
            f"signer   {self.signer}\n"
            f"sbom     {self.sbom}\n"
            f"python   {self.interpreter}\n"
            f"targets  {', '.join(self.targets)}"
        ) + (f"\nbase     {self.base}" if self.base is not None else "")


@dataclass(frozen=True)
class Bundle:
    """A verified bundle."""

    manifest: Manifest
    receipt: Receipt
    leftovers: tuple[str, ...] = ()
    """Paths of *known* files in its directory that do not belong to this bundle."""
    compiled: tuple[str, ...] = ()
    """Paths of compiled Python in its directory that Ansible left. Unverified: remove it before running Ansible."""


@dataclass(frozen=True)
class _Found:
    """A file that is there."""

    sha256: str
    size: int


@dataclass(frozen=True)
class _Policy:
    """What the one who verifies knows and wants."""

    signers: Path | None
    known: Mapping[str, Collection[str]]
    in_use: bool
    """Whether it is a directory that the operator and Ansible work in."""


def verify(
    *places: Path,
    signers: Path | None = None,
    known: Mapping[str, Collection[str]] | None = None,
    in_use: bool = True,
) -> Bundle:
    """Verify the bundle at *places*: an archive, a directory where it was unpacked, or where its volumes are.

    *signers* is a file of allowed signers (ssh-keygen(1)): with it, a bundle that none of them signed is refused.
    *known* has the files, by path below the bundle's root with their SHA-256, that may lie in a directory because an
    earlier bundle brought them. *in_use* says that a directory may have what the operator and Ansible make in it, which
    archives and volumes may not. Raises VerificationError naming what is damaged, missing, or should not be there, and
    ManifestError when its lists cannot be read.
    """
    try:
        return _verify(places, _Policy(signers, known or {}, in_use))
    except FileNotFoundError as error:
        raise VerificationError(f"{error.filename} does not exist: name a bundle.") from None
    except OSError as error:
        reason = f"{error.filename} cannot be read ({error.strerror})"
        raise VerificationError(f"{reason}: mend that, or carry the bundle over again.") from error


def _verify(places: Sequence[Path], policy: _Policy) -> Bundle:
    if (volumes := find_volumes(places)) is not None:
        try:
            with volumes.open() as stream:
                return _verify_stream(str(volumes.index), stream, policy)
        except VerificationError:
            # The first thing that looks wrong need not be all: say which volumes to copy again.
            volumes.check()
            raise
    if len(places) != 1:
        raise VerificationError("Only volumes can be in several places: name one archive, or one directory.")
    (path,) = places
    if path.is_dir():
        return _verify_directory(path, policy)
    with path.open("rb") as stream:
        return _verify_stream(str(path), stream, policy)


def _verify_directory(root: Path, policy: _Policy) -> Bundle:
    lists = {name: _read_list(root / name) for name in (MANIFEST_NAME, CHECKSUMS_NAME)}
    if (root / SIGNATURE_NAME).is_file():
        lists[SIGNATURE_NAME] = _read_list(root / SIGNATURE_NAME)
    problems: list[str] = []
    paths = sorted(_walk(root, problems))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(paths, pool.map(lambda path: _hash_file(root / path), paths), strict=True))
    return _judge(str(root), lists, found, problems, policy)


def _verify_stream(origin: str, raw: io.BufferedReader, policy: _Policy) -> Bundle:
    """Verify the archive that *raw* is, without unpacking it, in one pass."""
    lists: dict[str, bytes] = {}
    found: dict[str, _Found] = {}
    problems: list[str] = []
    try:
        # Two threads: one undoes the wrapper, this one hashes.
        with closing(read_ahead(_members(raw, problems))) as blocks:
            name, digest, size = "", hashlib.sha256(), 0
            for member, block in blocks:
                if member is not None:
                    name, digest, size = member, hashlib.sha256(), 0
                    if name in found:
                        problems.append(f"{name} is there twice")
                digest.update(block)
                size += len(block)
                found[name] = _Found(digest.hexdigest(), size)
                if name in LISTS and size <= _LARGEST_LIST:
                    lists[name] = (b"" if member is not None else lists[name]) + block
    except (EOFError, tarfile.TarError, zlib.error, gzip.BadGzipFile) as error:
        raise VerificationError(
            f"{origin} is truncated or damaged ({error}): copy it over again and compare the sizes."
        ) from error
    except OSError as error:
        raise VerificationError(f"{origin} cannot be read ({error.strerror or error}): copy it over again.") from error
    for name in (MANIFEST_NAME, CHECKSUMS_NAME):
        if name not in lists:
            raise VerificationError(f"{origin} has no {BUNDLE_DIRECTORY}/{name}: it is no bundle, or not a whole one.")
    # Whoever had the medium could add what the exemptions allow.
    return _judge(origin, lists, found, problems, replace(policy, in_use=False))


def _members(raw: io.BufferedReader, problems: list[str]) -> Iterator[tuple[str | None, bytes]]:
    """Yield the plain files of an archive: path below the bundle's directory and beginning, then None and the rest."""
    stream = _without_wrapper(raw)
    with tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK_BYTES) as tar:
        for member in tar:
            name = _name_in_bundle(member, problems)
            source = tar.extractfile(member) if name is not None else None
            if name is None or source is None:
                continue
            yield name, source.read(_BLOCK_BYTES)
            while block := source.read(_BLOCK_BYTES):
                yield None, block
    # To the end of the stream: gzip's own checksum comes last, and a truncated archive shows here.
    while stream.read(_BLOCK_BYTES):
        pass


def parse_checksums(content: bytes, origin: str) -> dict[str, str]:
    """Return path and SHA-256 of each line of a SHA256SUMS file; raise ManifestError for a line that is none."""
    sums: dict[str, str] = {}
    # As sha256sum reads them: a name may hold what splitlines() takes for the end of a line.
    lines = content.decode("utf-8", "replace").removesuffix("\n").split("\n") if content else []
    for number, line in enumerate(lines, 1):
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64 or name in sums:
            raise ManifestError(
                f"{origin}/{CHECKSUMS_NAME}, line {number}, is no checksum: carry the bundle over again."
            )
        sums[name] = digest
    return sums


def _judge(
    origin: str, lists: dict[str, bytes], found: dict[str, _Found], problems: list[str], policy: _Policy
) -> Bundle:
    signer = _signer(origin, lists[CHECKSUMS_NAME], lists.get(SIGNATURE_NAME), policy.signers)
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
    # What a delta relies on does not travel with it, but may be beside it since it was installed.
    relied_on = {file.path: file.sha256 for file in manifest.relies_on}
    leftovers: list[str] = []
    compiled: list[str] = []
    added = 0
    for path in sorted(found.keys() - sums.keys() - wanted.keys() - {CHECKSUMS_NAME, SIGNATURE_NAME}):
        if found[path].sha256 == relied_on.get(path) or (policy.in_use and _may_be_added(path)):
            continue
        if found[path].sha256 in policy.known.get(path, ()):
            leftovers.append(path)
        elif path in relied_on:
            problems.append(f"{path} is damaged")
        elif policy.in_use and _is_compiled(path, found):
            compiled.append(path)
        else:
            problems.append(f"{path} should not be there")
            added += 1
    if problems:
        # A bundle that was unpacked and never installed leaves files that no list of the site's tells of.
        only_added = policy.in_use and added == len(problems)
        named = "; ".join(problems[:_MOST_NAMED])
        more = f"; and {len(problems) - _MOST_NAMED} more" if len(problems) > _MOST_NAMED else ""
        advice = "Remove what should not be there, or unpack the bundle into a new directory"
        raise VerificationError(
            f"{origin} is not the bundle that was built: {named}{more}. "
            f"{advice if only_added else 'Carry it over again'}."
        )
    receipt = Receipt(
        bundle_version=manifest.bundle_version,
        digest=sha256_of_bytes(lists[CHECKSUMS_NAME]),
        files=len(sums) + 1,
        size=sum(found[path].size for path in sums) + len(lists[CHECKSUMS_NAME]),
        signer=signer,
        sbom=sums.get(SBOM_NAME, "none"),
        interpreter=manifest.interpreter,
        targets=tuple(target.name for target in manifest.targets),
        base=manifest.base,
    )
    return Bundle(manifest, receipt, tuple(leftovers), tuple(compiled))


def _signer(origin: str, checksums: bytes, signature: bytes | None, signers: Path | None) -> str:
    """Return the receipt's word on who signed; raise SignatureError when that is nobody who may."""
    if signature is None:
        if signers is not None:
            raise SignatureError(
                f"{origin} is not signed, and {signers} says who may: build it with --sign-key, with a key that is "
                "listed there."
            )
        return "none"
    try:
        if signers is not None:
            return str(verify_signature(checksums, signature, signers, BUNDLE_NAMESPACE))
        return str(unchecked_signer(checksums, signature, BUNDLE_NAMESPACE))
    except SignatureError as error:
        raise SignatureError(f"{origin} is not accepted, because of {SIGNATURE_NAME}. {error}") from error


def _problems_of(path: str, sha256: str | None, listed: ManifestFile | None, found: _Found | None) -> Iterator[str]:
    if found is None:
        yield f"{path} is missing"
    elif sha256 is not None and found.sha256 != sha256:
        yield f"{path} is damaged"
    elif listed is not None and listed.size != found.size:
        yield f"{path} has another size than listed"


def _may_be_added(path: str) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) and path.count("/") == 1 for pattern in _ADDED_FILES)


def _is_compiled(path: str, found: Collection[str]) -> bool:
    match = _COMPILED.fullmatch(path)
    return match is not None and f"{match['directory']}{match['module']}.py" in found


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


def _without_wrapper(raw: io.BufferedReader) -> IO[bytes]:
    compressed = raw.peek(2)[:2] == b"\x1f\x8b"
    return gzip.GzipFile(fileobj=raw) if compressed else raw  # type: ignore[return-value]  # GzipFile reads


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
    """Verify the bundle that the arguments name, print the receipt or what is wrong, return the exit status."""
    parser = argparse.ArgumentParser(prog="python3 -B -m airgap.verify", description="Check every file of a bundle.")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        bundle = verify(*options.bundle, signers=options.allowed_signers or site_signers())
    except AirgapError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(bundle.receipt)
    if bundle.compiled:
        print(f"note: {remark(bundle)}", file=sys.stderr)
    return 0


def remark(bundle: Bundle) -> str:
    """Return what to say of the compiled code in a bundle's directory."""
    return (
        f"Ansible left {len(bundle.compiled)} compiled files, which nothing can check ({bundle.compiled[0]}): "
        "install-pag-controller.sh removes them, or remove the __pycache__ directories below ansible/."
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add to *parser* what says which bundle to verify, and whose to accept."""
    parser.add_argument(
        "bundle", type=Path, nargs="+", help="archive, directory where it was unpacked, or its volumes (several places)"
    )
    parser.add_argument(
        "--allowed-signers",
        type=Path,
        metavar="FILE",
        help="refuse a bundle that nobody listed in FILE signed (ssh-keygen(1), ALLOWED SIGNERS; default: "
        "/etc/pag/allowed_signers where that exists)",
    )


if __name__ == "__main__":
    sys.exit(main())
