"""Writes conda packages, in both of the formats there are."""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import struct
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airgap.hashing import sha256_of_bytes

# Where a package was "built". Installers replace it by the environment's path, in binaries padded with zeros.
PLACEHOLDER = "/opt/placehold".ljust(255, "_")
_ZSTD_MAGIC = 0xFD2FB528
_ZSTD_WINDOW_8_MIB = 13 << 3
_ZSTD_BLOCK = 128 * 1024


@dataclass(frozen=True)
class File:
    """A file of a package; a symbolic link when it has a target."""

    content: bytes = b""
    executable: bool = False
    target: str | None = None

    @property
    def placeholder_mode(self) -> str | None:
        if PLACEHOLDER.encode() not in self.content:
            return None
        return "binary" if b"\0" in self.content else "text"


@dataclass
class Package:
    """A conda package."""

    name: str
    version: str
    files: dict[str, File]
    build: str = "0"
    subdir: str = "noarch"
    depends: list[str] = field(default_factory=list)
    noarch: str | None = None
    entry_points: list[str] = field(default_factory=list)
    suffix: str = ".conda"
    licence: str | None = None

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.version}-{self.build}"

    @property
    def index(self) -> dict[str, Any]:
        index: dict[str, Any] = {
            "build": self.build,
            "build_number": 0,
            "depends": sorted(self.depends),
            "name": self.name,
            "subdir": self.subdir,
            "version": self.version,
        }
        if self.noarch:
            index["noarch"] = self.noarch
        if self.licence:
            index["license"] = self.licence
        return index

    def write(self, channel: Path) -> dict[str, Any]:
        """Write the package below *channel*; return its record, with ``fn``."""
        payload = dict(sorted(self.files.items()))
        info = self._info(payload)
        if self.suffix == ".conda":
            content = _conda_archive(self.stem, payload, info)
        else:
            content = bz2.compress(_tar({**info, **payload}))
        path = channel / self.subdir / f"{self.stem}{self.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return self.index | {
            "fn": path.name,
            "md5": hashlib.md5(content, usedforsecurity=False).hexdigest(),
            "sha256": sha256_of_bytes(content),
            "size": len(content),
        }

    def _info(self, payload: dict[str, File]) -> dict[str, File]:
        paths = []
        for path, file in payload.items():
            entry: dict[str, Any] = {"_path": path, "path_type": "softlink" if file.target else "hardlink"}
            if not file.target:
                entry |= {"sha256": sha256_of_bytes(file.content), "size_in_bytes": len(file.content)}
            if mode := file.placeholder_mode:
                entry |= {"file_mode": mode, "prefix_placeholder": PLACEHOLDER}
            paths.append(entry)
        info = {
            "info/index.json": File(_json(self.index)),
            "info/paths.json": File(_json({"paths": paths, "paths_version": 1})),
            "info/files": File("".join(f"{path}\n" for path in payload).encode()),
            "info/about.json": File(_json({})),
        }
        if self.noarch == "python":
            link = {"noarch": {"type": "python", "entry_points": self.entry_points}, "package_metadata_version": 1}
            info["info/link.json"] = File(_json(link))
        return info


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True).encode()


def _tar(files: dict[str, File]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, file in files.items():
            member = tarfile.TarInfo(path)
            # Modes as a build machine with a strict umask leaves them: installed files must be readable all the same.
            member.mode = 0o750 if file.executable else 0o640
            if file.target:
                member.type, member.linkname = tarfile.SYMTYPE, file.target
            else:
                member.size = len(file.content)
            archive.addfile(member, io.BytesIO(file.content))
    return buffer.getvalue()


def _conda_archive(stem: str, payload: dict[str, File], info: dict[str, File]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in (
            ("metadata.json", b'{"conda_pkg_format_version": 2}'),
            (f"pkg-{stem}.tar.zst", _zstd(_tar(payload))),
            (f"info-{stem}.tar.zst", _zstd(_tar(info))),
        ):
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _zstd(content: bytes) -> bytes:
    """Return *content* as a Zstandard frame (RFC 8878) of raw blocks: valid, and needs no library."""
    parts = [struct.pack("<IBB", _ZSTD_MAGIC, 0, _ZSTD_WINDOW_8_MIB)]
    for start in range(0, len(content), _ZSTD_BLOCK):
        block = content[start : start + _ZSTD_BLOCK]
        last = start + _ZSTD_BLOCK >= len(content)
        parts += [struct.pack("<I", len(block) << 3 | last)[:3], block]
    return b"".join(parts)
