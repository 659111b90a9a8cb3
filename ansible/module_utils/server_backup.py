"""A backup of the server, as a directory: what is in it, whether it is whole, and how many are kept.

``/var/backups/pag/<UTC time>/`` has ``manifest.json``, which names every other file with its size and SHA-256. A backup
is made under a name that begins with a dot and gets its own name when it is complete, so whatever has such a name was
complete once. Standard library only: the program that makes backups has this file beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
DUMP = "database.dump"
"""PostgreSQL's custom format."""
PARTIAL_PREFIX = ".partial-"
REMOVED_PREFIX = ".removed-"
NAME_FORMAT = "%Y-%m-%dT%H%M%SZ"
"""Of a backup's name, for strftime, in UTC: sorts by time."""

_NAME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{6}Z(-[0-9]+)?")
_BLOCK = 1 << 20


class BackupError(Exception):
    """A backup cannot be made or used; the message is one sentence for the operator."""


@dataclass(frozen=True)
class Backup:
    """A backup that was found whole."""

    path: Path
    manifest: dict[str, Any]

    @property
    def dump(self) -> Path:
        """The database."""
        return self.path / DUMP

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(entry["size"] for entry in self.manifest["files"])


def digest(path: Path) -> str:
    """Return the SHA-256 of the file at *path* in hex; raises OSError."""
    value = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            value.update(block)
    return value.hexdigest()


def describe(directory: Path) -> list[dict[str, Any]]:
    """Return path, size in bytes and SHA-256 of every file below *directory* but the manifest, sorted by path."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / MANIFEST)
    return [
        {"path": path.relative_to(directory).as_posix(), "size": path.stat().st_size, "sha256": digest(path)}
        for path in files
    ]


def load(directory: Path) -> Backup:
    """Return the backup in *directory*, all of its files hashed.

    Raises BackupError, which names the file, when one is missing, cut, changed, or one too many.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        listed = {str(entry["path"]): entry for entry in manifest["files"]}
        version = manifest["format_version"]
    except FileNotFoundError:
        raise BackupError(f"{directory} is no backup: it has no {MANIFEST}; name another one.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupError(f"{directory / MANIFEST} cannot be read ({error}): take another backup.") from error
    if version != FORMAT_VERSION:
        raise BackupError(
            f"{directory} has format {version}, and this bundle reads {FORMAT_VERSION}: use a newer bundle."
        )
    if DUMP not in listed or any(_leaves(name) for name in listed):
        raise BackupError(f"{directory / MANIFEST} does not describe a backup of the server: take another backup.")
    for name, entry in listed.items():
        path = directory / name
        if not path.is_file():
            raise BackupError(f"{path} is missing from the backup: take another backup.")
        size = path.stat().st_size
        if size != entry["size"]:
            raise BackupError(f"{path} has {size} bytes and not {entry['size']}: take another backup.")
        if digest(path) != entry["sha256"]:
            raise BackupError(f"{path} was changed since the backup was made (SHA-256 differs): take another backup.")
    found = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    unknown = sorted(found - set(listed) - {MANIFEST})
    if unknown:
        raise BackupError(f"{directory / unknown[0]} is not in the backup's manifest: take another backup.")
    return Backup(directory, manifest)


def names(directory: Path) -> list[str]:
    """Return the names of the backups in *directory*, the oldest first; their content is not looked at."""
    if not directory.is_dir():
        return []
    return sorted(path.name for path in directory.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())


def prune(directory: Path, keep: int) -> list[str]:
    """Remove all but the *keep* newest backups in *directory*, and what earlier calls left; return their names."""
    gone = names(directory)[: -max(1, keep)]
    for name in gone:
        # At no moment does half a backup have a backup's name.
        (directory / name).rename(directory / f"{REMOVED_PREFIX}{name}")
    sweep(directory, REMOVED_PREFIX)
    return gone


def sweep(directory: Path, prefix: str) -> None:
    """Remove the directories in *directory* whose names begin with *prefix*: nobody's any more."""
    for path in directory.glob(f"{prefix}*"):
        shutil.rmtree(path)


def flush(directory: Path) -> None:
    """Bring every file and directory below *directory*, and itself, to the disk."""
    for path in [directory, *directory.rglob("*")]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _leaves(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts
