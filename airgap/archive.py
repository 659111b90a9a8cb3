"""Writes the bundle's archive: the same files give the same bytes.

A tar in a gzip wrapper without compression (level 0), because packages are compressed already. Written straight from
the cache to a temporary name beside the output, which is renamed at the end.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from airgap.errors import AirgapError, VerificationError
from airgap.manifest import BUNDLE_DIRECTORY

# 1980-01-01: the oldest time that zip can say, and one that tar does not call implausible as it does 1970's.
FIXED_TIME = 315532800
_BLOCK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Entry:
    """One file of the archive: bytes, or a file in the cache."""

    path: str
    """Below the bundle's root."""
    sha256: str
    size: int
    content: bytes | Path
    executable: bool = False


def write_archive(output: Path, entries: Iterable[Entry]) -> None:
    """Write *entries* to *output*, which is replaced when all is written.

    Raises AirgapError when the place cannot be written to, and VerificationError when a file of the cache has changed.
    """
    ordered = sorted(entries, key=lambda entry: entry.path)
    with (
        _temporary(output) as raw,
        io.BufferedWriter(raw, _BLOCK_BYTES) as buffered,
        gzip.GzipFile("", "wb", 0, buffered, mtime=0) as compressed,
        tarfile.open(
            fileobj=compressed,
            mode="w",
            format=tarfile.GNU_FORMAT,
        ) as tar,
    ):
        seen: set[str] = set()
        for entry in ordered:
            for directory in _directories(entry.path):
                if directory not in seen:
                    seen.add(directory)
                    tar.addfile(_member(directory, tarfile.DIRTYPE, 0o755))
            _add(tar, entry)


def _add(tar: tarfile.TarFile, entry: Entry) -> None:
    member = _member(f"{BUNDLE_DIRECTORY}/{entry.path}", tarfile.REGTYPE, 0o755 if entry.executable else 0o644)
    member.size = entry.size
    with io.BytesIO(entry.content) if isinstance(entry.content, bytes) else entry.content.open("rb") as source:
        reader = _HashingReader(source)
        try:
            tar.addfile(member, reader)
        except OSError as error:
            if str(error) != "unexpected end of data":
                raise
        if reader.digest.hexdigest() != entry.sha256:
            raise VerificationError(f"{entry.path} changed in the cache while the bundle was written: start again.")


class _HashingReader:
    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._source.read(size)
        self.digest.update(block)
        return block


def _member(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.mode = mode
    member.mtime = FIXED_TIME
    member.uname = member.gname = "root"
    return member


def _directories(path: str) -> Iterator[str]:
    """Yield the directories above *path* in the archive, outermost first."""
    parts = [BUNDLE_DIRECTORY, *path.split("/")[:-1]]
    for length in range(1, len(parts) + 1):
        yield "/".join(parts[:length])


@contextmanager
def _temporary(output: Path) -> Iterator[io.FileIO]:
    """Open a temporary file beside *output*; it takes that name when the block ends without an error."""
    temporary = output.with_name(f".{output.name}.part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # Not truncated before it is locked: it may be another build's.
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise AirgapError(
            f"{output.parent} cannot be written to ({error.strerror}): name another place with --output."
        ) from error
    # A second descriptor holds the lock until the file has its name, after the writers have closed theirs.
    with os.fdopen(os.dup(descriptor), "rb") as locked, os.fdopen(descriptor, "wb", buffering=0) as stream:
        try:
            fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AirgapError(f"Another build is writing {output}: wait for it, or name another --output.") from None
        try:
            stream.truncate(0)
            yield stream
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise AirgapError(
                f"{output} could not be written ({error.strerror or error}): make room, or name another place with "
                "--output."
            ) from error
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        temporary.replace(output)
