"""The archive of what a controller has and no bundle brings: the site's files, the deployed flows, packages of packs.

A tar archive whose first member, ``manifest.json``, names every other one with its mode and its SHA-256, or, for a
link, what it leads to. Standard library only.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
PLAYBOOKS, FLOWS, SETTINGS, MIRROR = "playbooks", "flows", "etc", "mirror"
"""Where the members are: beside the playbooks, the deployed flows, /etc/pag, and the mirror."""
_TOPS = (PLAYBOOKS, FLOWS, SETTINGS, MIRROR)
_BLOCK = 1 << 20


class ArchiveError(Exception):
    """The archive cannot be made or used; the message is one sentence for the operator."""


@dataclass(frozen=True)
class Entry:
    """A file or a link of the controller."""

    path: str
    """In the archive."""
    mode: int
    sha256: str | None
    """None: it is a link."""
    target: str | None = None
    """What a link leads to."""

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest's entry."""
        return {"path": self.path, "mode": f"{self.mode:o}", "sha256": self.sha256, "target": self.target}


def entries(sources: Iterable[tuple[str, Path]]) -> Iterator[tuple[Entry, Path]]:
    """Yield what *sources* (path in the archive, file or directory) hold, each with where it is, sorted."""
    for name, source in sorted(sources):
        found = [source] if source.is_file() or source.is_symlink() else sorted(source.rglob("*"))
        for path in found:
            inside = name if path == source else f"{name}/{path.relative_to(source).as_posix()}"
            if path.is_symlink():
                yield Entry(inside, 0o777, None, str(path.readlink())), path
            elif path.is_file():
                yield Entry(inside, path.stat().st_mode & 0o777, _sha256(path)), path


def write(path: Path, listed: list[tuple[Entry, Path]], about: dict[str, Any]) -> None:
    """Write an archive of *listed* to *path*, which gets its name when it is complete; raises OSError, ArchiveError."""
    manifest = {"format_version": FORMAT_VERSION, **about, "files": [entry.to_dict() for entry, _ in listed]}
    content = json.dumps(manifest, indent=1, sort_keys=True).encode()
    temporary = path.with_name(f".{path.name}")
    try:
        with temporary.open("wb") as stream:
            os.fchmod(stream.fileno(), 0o600)
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
                archive.addfile(_member(MANIFEST, 0o644, len(content)), io.BytesIO(content))
                for entry, source in listed:
                    if entry.sha256 is None:
                        member = _member(entry.path, entry.mode, 0)
                        member.type, member.linkname = tarfile.SYMTYPE, str(entry.target)
                        archive.addfile(member)
                        continue
                    with source.open("rb") as file:
                        archive.addfile(_member(entry.path, entry.mode, source.stat().st_size), file)
            stream.flush()
            os.fsync(stream.fileno())
        # Also says when a file was changed while it was read.
        check(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of the archive at *path*; raises ArchiveError."""
    try:
        with tarfile.open(path, "r:") as archive:
            first = archive.next()
            stream = archive.extractfile(first) if first is not None and first.name == MANIFEST else None
            manifest = json.loads(stream.read()) if stream is not None else None
    except (OSError, ValueError, tarfile.TarError) as error:
        raise ArchiveError(f"{path} cannot be read ({error}): take another archive.") from error
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        raise ArchiveError(f"{path} is no controller's archive that this bundle reads: take another one.")
    return manifest


def check(path: Path) -> dict[str, Any]:
    """Return the manifest of the archive at *path* after hashing all of its members.

    Raises ArchiveError, which names the member, when one is missing, cut, changed, one too many, or leads elsewhere.
    """
    manifest = read_manifest(path)
    expected = {entry["path"]: entry for entry in manifest["files"]}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.name == MANIFEST:
                    continue
                entry = expected.pop(member.name, None)
                if entry is None or _leaves(member.name):
                    raise ArchiveError(f"{path} has a member {member.name} that it should not have: take another one.")
                stream = archive.extractfile(member) if member.isfile() else None
                found = (member.linkname if member.issym() else None, _digest(stream) if stream else None)
                if found != (entry["target"], entry["sha256"]):
                    raise ArchiveError(f"{member.name} in {path} is not what was put there: take another archive.")
                if entry["target"] is not None and _leaves(f"{PurePosixPath(member.name).parent}/{entry['target']}"):
                    raise ArchiveError(f"{member.name} in {path} leads elsewhere: take another archive.")
    except (OSError, tarfile.TarError) as error:
        raise ArchiveError(f"{path} cannot be read ({error}): take another archive.") from error
    if expected:
        raise ArchiveError(f"{next(iter(expected))} is missing from {path}: take another archive.")
    return manifest


def _leaves(name: str) -> bool:
    """Return whether a path in the archive leads out of the directories that it may have."""
    path = os.path.normpath(name)
    return path.startswith(("/", "..")) or PurePosixPath(path).parts[:1] not in {(top,) for top in _TOPS}


def _member(name: str, mode: int, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mode, member.size = mode, size
    return member


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return _digest(stream)


def _digest(stream: Any) -> str:
    value = hashlib.sha256()
    while block := stream.read(_BLOCK):
        value.update(block)
    return value.hexdigest()
