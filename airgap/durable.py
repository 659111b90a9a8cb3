"""Files that appear whole: under a temporary name first, then under their own.

What is interrupted leaves only unfinished files, which the next run takes over. Files become readable for everybody,
and root's where root runs this. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

from airgap.errors import InstallationError
from airgap.hashing import sha256_of_bytes, sha256_of_file

UNFINISHED = ".part"
"""How names of unfinished files end; they begin with a dot."""


def has_content(path: Path, sha256: str) -> bool:
    """Return whether *path* is a plain file with that content."""
    return path.is_file() and not path.is_symlink() and sha256_of_file(path) == sha256


def write(path: Path, content: bytes) -> bool:
    """Give the file at *path* that content; return whether it had another, or was not there."""
    if has_content(path, sha256_of_bytes(content)):
        make_readable(path)
        return False
    temporary = _temporary(path)
    temporary.write_bytes(content)
    make_readable(temporary)
    temporary.replace(path)
    return True


def place(source: Path, path: Path, sha256: str, *, link: bool) -> bool:
    """Bring the file *source* to *path*, unless it is there; return whether it was not.

    With *link*, both names become one file where the file system has hard links. It then belongs to root, so that
    nobody else changes it later. Raises InstallationError when the content is not the one that *sha256* says.
    """
    if has_content(path, sha256):
        make_readable(path)
        if link:
            _share(path, source)
        return False
    temporary = _temporary(path)
    _link_or_copy(source, temporary, link=link)
    make_readable(temporary)
    # Between verifying and now, the file was the operator's.
    if sha256_of_file(temporary) != sha256:
        temporary.unlink()
        raise InstallationError(f"{source} was changed while it was installed: unpack the bundle and run this again.")
    temporary.replace(path)
    return True


def make_readable(path: Path) -> None:
    """Make the file readable for everybody, writable for its owner, and root's where root runs this."""
    status = path.stat()
    if os.geteuid() == 0 and (status.st_uid, status.st_gid) != (0, 0):
        os.chown(path, 0, 0)
    if status.st_mode & 0o7777 != 0o644:
        path.chmod(0o644)


def make_directories(directory: Path) -> None:
    """Create *directory* and its parents, readable for all whatever the umask is."""
    if not directory.is_dir():
        make_directories(directory.parent)
        directory.mkdir()
        directory.chmod(0o755)


def remove(path: Path, root: Path) -> None:
    """Remove the file at *path*, and the directories above it, up to *root*, that are empty then."""
    path.unlink()
    for directory in path.relative_to(root).parents:
        if directory == Path() or any((root / directory).iterdir()):
            break
        (root / directory).rmdir()


def flush(directory: Path) -> None:
    """Wait until what was written to the file system of *directory* is on the disk. Raises OSError."""
    # All of it: files that were linked were written by whoever unpacked them. Not others (os.sync()): a node may have
    # one over a network that does not answer.
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    make_directories(path.parent)
    temporary = path.with_name(f".{path.name}{UNFINISHED}")
    temporary.unlink(missing_ok=True)
    return temporary


def _share(path: Path, other: Path) -> None:
    """Make *other*, which has the same content, one file with *path*: no content is on the disk twice."""
    if other.is_file() and not other.samefile(path):
        temporary = _temporary(other)
        try:
            temporary.hardlink_to(path)
        except OSError:  # another file system, or one without links
            return
        temporary.replace(other)


def _link_or_copy(source: Path, path: Path, *, link: bool) -> None:
    if link:
        try:
            path.hardlink_to(source)
        except OSError:  # another file system, or one without links
            pass
        else:
            return
    shutil.copyfile(source, path)
