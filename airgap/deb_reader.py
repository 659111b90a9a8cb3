"""Reads a Debian package's ``copyright`` file out of the ``.deb``, and decompresses little else.

Most packages are compressed with xz, large ones in blocks of some 25 MB that can be read on their own; the file is near
the end. Other compressions are dpkg-deb's, which opens whatever Debian and Ubuntu use.
"""

from __future__ import annotations

import lzma
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from airgap.errors import ResolutionError

_BLOCK_BYTES = 256 * 1024
_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60
# https://tukaani.org/xz/xz-file-format.txt: stream header and footer, and what the latter ends with.
_XZ_HEADER = _XZ_FOOTER = 12
_XZ_MAGIC = b"YZ"
_XZ_CHECKSUM = 4


@dataclass(frozen=True)
class CopyrightFile:
    """What a package has as its copyright file: a text, or a link to another package's."""

    text: str | None = None
    package: str | None = None


def read_copyright(deb: Path, package: str) -> CopyrightFile:
    """Return the copyright file of *package* in the file *deb*; both fields are None when it has none.

    Raises ResolutionError when the package cannot be read.
    """
    try:
        with deb.open("rb") as stream:
            if (blocks := _xz_blocks(stream)) is not None:
                return _find_in_blocks(stream, blocks, package)
    except (lzma.LZMAError, ValueError, IndexError, OSError, StopIteration):
        pass  # dpkg-deb knows better, or says what is wrong
    return _read_with_dpkg(deb, package)


@dataclass(frozen=True)
class _XzBlock:
    """A part of an xz file that can be decompressed on its own."""

    header: bytes
    """The file's, which every reader wants first."""
    start: int
    """In the package."""
    size: int
    """Bytes, compressed."""
    offset: int
    """Decompressed, in the tar."""
    length: int
    """Bytes, decompressed."""


def _xz_blocks(deb: IO[bytes]) -> list[_XzBlock] | None:
    """Return the blocks of the packages' files in *deb*; None where they are not compressed with xz.

    Raises ValueError or IndexError for what is not laid out as expected.
    """
    if deb.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise ValueError("no Debian package")
    while header := deb.read(_AR_HEADER):
        name, size = header[:16].strip().rstrip(b"/"), int(header[48:58])
        if name == b"data.tar.xz":
            return _blocks_of_stream(deb, deb.tell(), size)
        if name.startswith(b"data.tar"):
            return None
        deb.seek(size + size % 2, 1)
    raise ValueError("no files")


def _blocks_of_stream(stream: IO[bytes], start: int, size: int) -> list[_XzBlock]:
    """Return the blocks of the single xz stream of *size* bytes at *start*, as its index at the end says."""
    header = stream.read(_XZ_HEADER)
    stream.seek(start + size - _XZ_FOOTER)
    footer = stream.read(_XZ_FOOTER)
    index_size = (int.from_bytes(footer[4:8], "little") + 1) * 4
    stream.seek(start + size - _XZ_FOOTER - index_size)
    count, *numbers = _numbers(stream.read(index_size)[1:-_XZ_CHECKSUM])
    blocks: list[_XzBlock] = []
    here, offset = start + _XZ_HEADER, 0
    for unpadded, length in zip(numbers[: 2 * count : 2], numbers[1 : 2 * count : 2], strict=True):
        blocks.append(_XzBlock(header, here, -(-unpadded // 4) * 4, offset, length))
        here, offset = here + blocks[-1].size, offset + length
    if footer[-2:] != _XZ_MAGIC or len(blocks) != count or here + index_size + _XZ_FOOTER != start + size:
        raise ValueError("not one stream")
    return blocks


def _numbers(content: bytes) -> Iterator[int]:
    """Yield the numbers in *content*, seven bits a byte, the lowest first."""
    number = shift = 0
    for byte in content:
        number |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            yield number
            number = shift = 0


def _decompressed(stream: IO[bytes], blocks: Sequence[_XzBlock]) -> Iterator[bytes]:
    """Yield what is in *blocks*, one after the other."""
    for block in blocks:
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ)
        decompressor.decompress(block.header)
        stream.seek(block.start)
        left = block.size
        while left and (compressed := stream.read(min(left, _BLOCK_BYTES))):
            left -= len(compressed)
            yield decompressor.decompress(compressed)


def _find_in_blocks(stream: IO[bytes], blocks: Sequence[_XzBlock], package: str) -> CopyrightFile:
    """Return the copyright file of *package*: its tar header is looked for in the last of *blocks* first."""
    for number in reversed(range(len(blocks))):
        block = blocks[number]
        if found := _find_from(_decompressed(stream, blocks[number:]), block.offset, block.length, package):
            return found
    if len(blocks) == 1:
        return CopyrightFile()
    # A header may lie across two blocks.
    end = blocks[-1].offset + blocks[-1].length
    return _find_from(_decompressed(stream, blocks), 0, end, package) or CopyrightFile()


def _find_from(pieces: Iterator[bytes], offset: int, length: int, package: str) -> CopyrightFile | None:
    """Return the copyright file whose header is in the first *length* bytes of *pieces*, parts of a tar at *offset*."""
    directory = f"./usr/share/doc/{package}"
    names = {directory, f"{directory}/copyright"}
    # What is left of the pieces starts at a header's place, a multiple of its size.
    left, begin, read = bytearray(), offset, 0
    for piece in pieces:
        left += piece
        read += len(piece)
        if gap := -begin % tarfile.BLOCKSIZE:
            del left[:gap]
            begin += gap
        place = left.find(directory.encode())
        while 0 <= place <= len(left) - tarfile.BLOCKSIZE:
            member = _member_at(left, place)
            if member is not None and member.name in names:
                if member.name == directory and member.issym():
                    return CopyrightFile(package=member.linkname.rstrip("/").rpartition("/")[2])
                if member.name != directory and (member.issym() or member.islnk()):
                    return CopyrightFile(package=member.linkname.split("/")[-2])
                if member.name != directory:
                    start = place + tarfile.BLOCKSIZE
                    while len(left) < start + member.size:
                        left += next(pieces)
                    return CopyrightFile(text=left[start : start + member.size].decode("utf-8", "replace"))
            place = left.find(directory.encode(), place + 1)
        if read >= length:
            return None
        done = len(left) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        del left[:done]
        begin += done
    return None


def _member_at(content: bytearray, place: int) -> tarfile.TarInfo | None:
    """Return the tar member whose header is at *place*; None where there is none."""
    if place % tarfile.BLOCKSIZE:
        return None
    try:
        return tarfile.TarInfo.frombuf(bytes(content[place : place + tarfile.BLOCKSIZE]), "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None


def _read_with_dpkg(deb: Path, package: str) -> CopyrightFile:
    if shutil.which("dpkg-deb") is None:
        raise ResolutionError("dpkg-deb is not on this host: build the bundle on Debian or Ubuntu.")
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None  # noqa: S101  for the type checker: it is a pipe
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|", bufsize=_BLOCK_BYTES) as archive:
                return _find(archive, package)
        except (tarfile.TarError, EOFError) as error:
            raise ResolutionError(f"dpkg-deb on this host cannot read {package}'s package ({error}).") from error
        finally:
            # dpkg-deb ends when nobody reads on.
            process.stdout.close()


def _find(archive: tarfile.TarFile, package: str) -> CopyrightFile:
    directory = f"./usr/share/doc/{package}"
    for member in archive:
        if member.name == directory and member.issym():
            return CopyrightFile(package=member.linkname.rstrip("/").rpartition("/")[2])
        if member.name == f"{directory}/copyright":
            if member.issym() or member.islnk():
                return CopyrightFile(package=member.linkname.split("/")[-2])
            content = archive.extractfile(member)
            return CopyrightFile(text=content.read().decode("utf-8", "replace") if content else None)
    return CopyrightFile()
