"""Output files that appear under their name only when they are complete, and that one program at a time writes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from airgap.errors import AirgapError


def partial_path(output: Path) -> Path:
    """Return the name that *output* has while it is written."""
    return output.with_name(f".{output.name}.part")


def left_behind(output: Path) -> int:
    """Return the bytes on disk of what a killed program left of *output*, which the next one frees."""
    partial = partial_path(output)
    if not partial.parent.is_dir():
        return 0
    left = [partial] if partial.exists() else []
    return sum(path.lstat().st_blocks * 512 for path in [*left, *_others(partial)])


@contextmanager
def partial_file(output: Path) -> Iterator[IO[bytes]]:
    """Open the file at :func:`partial_path`, empty, and keep other programs from writing *output* meanwhile.

    More temporary files may be made beside it, with a suffix after its name. Whoever completes them gives them their
    names before the block ends; what has not got one by then is removed, and so is at the start what a killed program
    left. Raises AirgapError when the place cannot be written to, for want of room or of rights, and when another
    program is writing the same output.
    """
    partial = partial_path(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(partial)
    except BlockingIOError:
        raise AirgapError(f"Another build is writing {output}: wait for it, or name another --output.") from None
    except OSError as error:
        raise AirgapError(
            f"{output.parent} cannot be written to ({error.strerror}): name another place with --output."
        ) from error
    # A second descriptor keeps the lock until the file has its name: closing the first may fail on a full disk.
    with os.fdopen(os.dup(descriptor), "rb") as locked:
        try:
            with os.fdopen(descriptor, "wb") as stream:
                for path in _others(partial):
                    path.unlink()
                stream.truncate(0)
                yield stream
        except OSError as error:
            raise AirgapError(
                f"{output} could not be written ({error.strerror or error}): make room, or name another place with "
                "--output."
            ) from error
        finally:
            for path in _others(partial):
                path.unlink()
            if _is_still(partial, locked.fileno()):
                partial.unlink()


def _others(partial: Path) -> list[Path]:
    return [path for path in partial.parent.iterdir() if path.name.startswith(f"{partial.name}.")]


def _lock(partial: Path) -> int:
    """Return a descriptor of the locked file; raise BlockingIOError when another program has it."""
    while True:
        # Not truncated before it is locked: it may be another program's.
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(partial, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # The program that had it has finished in between, and this is its output by now.
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
