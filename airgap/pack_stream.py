"""Opens packs: plain tar archives, and what ``pixi-pack --create-executable`` writes.

The latter is a shell script, as in pixi-pack's src/header.sh and src/pack.rs: a header that ends in the line
``@@END_HEADER@@``, an empty line, the tar in base64 on one line, the line ``@@END_ARCHIVE@@``, and pixi-unpack in
base64.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from airgap.errors import PackError

_SCRIPT = b"#!"
_END_OF_HEADER = b"\n@@END_HEADER@@\n\n"
_END_OF_ARCHIVE = b"\n@@END_ARCHIVE@@\n"
_LONGEST_HEADER = 64 * 1024
_BLOCK_BYTES = 1024 * 1024


@contextmanager
def open_pack(path: Path) -> Iterator[IO[bytes]]:
    """Open the tar archive of the pack at *path* for reading, at any position.

    Raises PackError when the file is an executable without an archive in it; whether the archive is one, is for the
    reader to find out.
    """
    with path.open("rb") as stream:
        if stream.read(len(_SCRIPT)) != _SCRIPT:
            stream.seek(0)
            yield stream
            return
        stream.seek(0)
        begin = stream.read(_LONGEST_HEADER).find(_END_OF_HEADER)
        end = _find(stream, _END_OF_ARCHIVE, begin) if begin >= 0 else -1
        if end < 0:
            raise PackError(
                f"{path} is a script, and no pack of pixi-pack --create-executable, or is cut short: pack the "
                "environment again, or copy it again."
            )
        begin += len(_END_OF_HEADER)
        with io.BufferedReader(_Base64View(path, stream, begin, end - begin), _BLOCK_BYTES) as archive:
            yield archive


def _find(stream: IO[bytes], wanted: bytes, start: int) -> int:
    """Return the position of *wanted* in *stream* at or after *start*, or -1."""
    stream.seek(start)
    position, block = start, stream.read(_BLOCK_BYTES)
    while block:
        if (found := block.find(wanted)) >= 0:
            return position + found
        following = stream.read(_BLOCK_BYTES)
        if not following:
            break
        # What is looked for may lie across two blocks.
        kept = block[-len(wanted) :]
        position += len(block) - len(kept)
        block = kept + following
    return -1


class _Base64View(io.RawIOBase):
    """The bytes that a part of a file stands for: base64 on one line, so every position can be computed."""

    def __init__(self, path: Path, stream: IO[bytes], begin: int, length: int) -> None:
        super().__init__()
        self._path, self._stream, self._begin = path, stream, begin
        if length % 4 or not length:
            raise self._damaged()
        stream.seek(begin + length - 4)
        self._size = (length - 4) // 4 * 3 + len(self._decoded(stream.read(4)))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence])
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # the base class names no type
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        first, skipped = divmod(self._position, 3)
        self._stream.seek(self._begin + first * 4)
        groups = (skipped + wanted + 2) // 3
        content = self._decoded(self._stream.read(groups * 4))[skipped : skipped + wanted]
        if len(content) != wanted:
            raise self._damaged()
        buffer[:wanted] = content
        self._position += wanted
        return wanted

    def _decoded(self, text: bytes) -> bytes:
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise self._damaged() from error

    def _damaged(self) -> PackError:
        return PackError(
            f"{self._path} has an archive that is no base64 on one line, as pixi-pack writes it: pack the environment "
            "again, or copy it again."
        )
