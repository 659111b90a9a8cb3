"""Writes the bundle's archive: the same files give the same bytes.

A tar in two gzip members, one after the other, which gzip and tar read as one. In the first are the texts, compressed,
with the bundle's lists in front; in the second the packages, which are compressed already, as they are. It is written
in one pass, straight from the cache, and what is written is hashed on the way.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from airgap.errors import VerificationError
from airgap.manifest import BUNDLE_DIRECTORY, CHECKSUMS_NAME, MANIFEST_NAME
from airgap.output import partial_file, partial_path
from airgap.read_ahead import read_ahead
from airgap.signature import SIGNATURE_NAME
from airgap.volumes import remove_volumes

# 1980-01-01: the oldest time that zip can say, and one that tar does not call implausible as it does 1970's.
FIXED_TIME = 315532800

# Readers that want to know what a bundle is need only its beginning.
_FIRST = (MANIFEST_NAME, CHECKSUMS_NAME, SIGNATURE_NAME)
# Level 9 takes three times as long and saves less than 1 %.
_TEXT_LEVEL = 6

# RFC 1952: deflate, no flags, no time, no extra flags, system unknown.
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
# RFC 1951: the most that a stored block holds; and the last block, empty, in fixed codes.
_STORED_BYTES = 0xFFFF
_LAST_BLOCK = b"\x03\x00"
# Whole stored blocks, as much as stays in a processor's own cache from one step to the next.
_BLOCK_BYTES = 8 * _STORED_BYTES


Pieces: TypeAlias = Sequence[bytes | memoryview]
"""A block of the archive, in parts that are to be written together."""


@dataclass(frozen=True)
class Entry:
    """One file of the archive: bytes, or a file in the cache."""

    path: str
    """Below the bundle's root."""
    sha256: str
    size: int
    content: bytes | Path
    executable: bool = False
    package: bool = False
    """Whether it is compressed already."""


@dataclass(frozen=True)
class Head:
    """The first member of an archive, with the texts."""

    content: bytes
    """As it is written, compressed."""
    size: int
    """Bytes of the tar in it."""
    directories: frozenset[str]
    """Those that the tar has had by then."""


def write_archive(output: Path, entries: Iterable[Entry]) -> int:
    """Write *entries* to *output*; as :func:`write_blocks`."""
    entries = list(entries)
    return write_blocks(output, blocks_after(head_of(entries), entries))


def write_blocks(output: Path, blocks: Iterable[Pieces]) -> int:
    """Write *blocks* to *output*, which is replaced when all is written; return its size in bytes.

    Volumes of an earlier build are removed after that, as they would be taken for this one's.
    Raises AirgapError when the place cannot be written to, and what *blocks* raise.
    """
    size = 0
    with partial_file(output) as stream:
        for block in blocks:
            size += _write_together(stream.fileno(), block)
        partial_path(output).replace(output)
        remove_volumes(output)
    return size


def _write_together(descriptor: int, pieces: Pieces) -> int:
    """Write *pieces* one after the other, without putting them together in memory; return their bytes."""
    size = sum(map(len, pieces))
    if (written := os.writev(descriptor, pieces)) < size:
        rest = memoryview(b"".join(pieces))[written:]
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    return size


def archive_blocks(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Yield the archive of *entries*, block by block; raise VerificationError when a file of the cache has changed."""
    entries = list(entries)
    return map(b"".join, blocks_after(head_of(entries), entries))


def head_of(entries: Iterable[Entry]) -> Head:
    """Return the first member of the archive of *entries*."""
    tar = _Tar()
    texts = [entry for entry in sorted(entries, key=_rank) if not entry.package]
    content = b"".join(_compressed(tar.blocks(texts)))
    return Head(content, tar.size, frozenset(tar.directories))


def blocks_after(head: Head, entries: Iterable[Entry]) -> Iterator[Pieces]:
    """Yield the archive that begins with *head*, and goes on with the packages of *entries*, each block in pieces.

    Raises VerificationError when a file of the cache has changed.
    """
    tar = _Tar(head.size, head.directories)
    yield [head.content]
    packages = [entry for entry in sorted(entries, key=_rank) if entry.package]
    # Reading and hashing have a thread; gzip's checksum is made where the blocks are written.
    yield from _stored(read_ahead(chain(tar.blocks(packages), tar.end())))


def _rank(entry: Entry) -> tuple[int, str]:
    return (_FIRST.index(entry.path) if entry.path in _FIRST else len(_FIRST)), entry.path


class _Tar:
    """The blocks of a tar archive, which may come in parts."""

    def __init__(self, size: int = 0, directories: Iterable[str] = ()) -> None:
        self.directories = set(directories)
        self.size = size

    def blocks(self, entries: Sequence[Entry]) -> Iterator[bytes]:
        """Yield *entries* with the directories that were not there yet."""
        for entry in entries:
            for directory in _directories(entry.path):
                if directory not in self.directories:
                    self.directories.add(directory)
                    yield self._count(_header(directory, tarfile.DIRTYPE, 0o755))
            name = f"{BUNDLE_DIRECTORY}/{entry.path}"
            yield self._count(_header(name, tarfile.REGTYPE, 0o755 if entry.executable else 0o644, entry.size))
            for block in _checked(entry):
                yield self._count(block)
            if rest := -entry.size % tarfile.BLOCKSIZE:
                yield self._count(bytes(rest))

    def end(self) -> Iterator[bytes]:
        """Yield what comes after the last entry."""
        end = 2 * tarfile.BLOCKSIZE
        yield bytes(end + -(self.size + end) % tarfile.RECORDSIZE)

    def _count(self, block: bytes) -> bytes:
        self.size += len(block)
        return block


def _checked(entry: Entry) -> Iterator[bytes]:
    """Yield the content of *entry* in blocks of equal size but the last one."""
    digest = hashlib.sha256()
    for block in _read(entry):
        digest.update(block)
        yield block
    if digest.hexdigest() != entry.sha256:
        raise VerificationError(f"{entry.path} changed in the cache while the bundle was written: start again.")


def _read(entry: Entry) -> Iterator[bytes]:
    if isinstance(entry.content, bytes):
        yield entry.content
        return
    left = entry.size
    with entry.content.open("rb") as source:
        while left and (block := source.read(min(left, _BLOCK_BYTES))):
            left -= len(block)
            yield block


def _compressed(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a gzip member with *blocks*, compressed."""
    compressor = zlib.compressobj(_TEXT_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    yield _GZIP_HEADER
    checksum = size = 0
    for block in blocks:
        checksum, size = zlib.crc32(block, checksum), size + len(block)
        yield compressor.compress(block)
    yield compressor.flush() + _trailer(checksum, size)


def _stored(blocks: Iterable[bytes]) -> Iterator[Pieces]:
    """Yield a gzip member with *blocks* as they are, a deflate block for each part; independent of zlib's version."""
    yield [_GZIP_HEADER]
    checksum = size = 0
    for block in blocks:
        checksum, size = zlib.crc32(block, checksum), size + len(block)
        view = memoryview(block)
        parts = [view[start : start + _STORED_BYTES] for start in range(0, len(view), _STORED_BYTES)]
        yield [piece for part in parts for piece in (struct.pack("<BHH", 0, len(part), len(part) ^ 0xFFFF), part)]
    yield [_LAST_BLOCK + _trailer(checksum, size)]


def _trailer(checksum: int, size: int) -> bytes:
    return struct.pack("<II", checksum, size & 0xFFFFFFFF)


def _header(name: str, kind: bytes, mode: int, size: int = 0) -> bytes:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.mode = mode
    member.size = size
    member.mtime = FIXED_TIME
    member.uname = member.gname = "root"
    # UTF-8, not what this process's locale says.
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _directories(path: str) -> Iterator[str]:
    """Yield the directories above *path* in the archive, outermost first."""
    parts = [BUNDLE_DIRECTORY, *path.split("/")[:-1]]
    for length in range(1, len(parts) + 1):
        yield "/".join(parts[:length])
