"""Reads packs (``packed-env.tar``, pixi-pack's format) and checks them, which pixi-unpack does not."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from airgap.environment import PackageFile
from airgap.errors import PackError
from airgap.pack_format import (
    CHANNEL,
    ENVIRONMENT,
    FORMAT_VERSION,
    METADATA,
    RELIES_ON,
    RELIES_ON_VERSION,
    REPODATA,
    THIN_VERSION,
    WHEELS,
)
from airgap.pack_stream import open_pack
from airgap.wheel_names import WheelName

_BLOCK_BYTES = 1024 * 1024
# A tar archive ends in two empty blocks; without them it was cut off.
_TAR_END = bytes(1024)
_LARGEST_DESCRIPTION = 64 * 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class PackContents:
    """What a pack holds, checked."""

    path: Path
    platform: str
    conda: tuple[PackageFile, ...]
    wheels: tuple[PackageFile, ...]
    members: Mapping[str, str]
    """Names in the archive by the packages' paths below a mirror; without those that a thin pack relies on."""

    @property
    def files(self) -> tuple[PackageFile, ...]:
        """All packages."""
        return self.conda + self.wheels

    @property
    def relied_on(self) -> tuple[PackageFile, ...]:
        """The packages that do not travel in a thin pack: the site has them."""
        return tuple(package for package in self.files if package.path not in self.members)

    def package(self, name: str) -> PackageFile | None:
        """Return the package called *name*, or None."""
        return next((package for package in self.files if package.name == name), None)


def read_pack(path: Path) -> PackContents:
    """Return what the pack at *path* holds.

    Raises PackError when it is no pack, is cut short, is of another format version, holds names or kinds of entries
    that a pack cannot have, or a file that is not what the pack itself says it is.
    """
    try:
        with open_pack(path) as stream:
            _check_end(path, stream)
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                return _read_members(path, archive)
    except tarfile.TarError as error:
        raise PackError(f"{path} is no pack or is cut short ({error}): pack the environment again.") from error
    except OSError as error:
        raise PackError(f"{path} cannot be read ({error.strerror}): pack the environment first.") from error


def _check_end(path: Path, stream: IO[bytes]) -> None:
    size = stream.seek(0, 2)
    stream.seek(max(0, size - len(_TAR_END)))
    if stream.read() != _TAR_END:
        raise PackError(
            f"{path} is no plain tar archive or is cut short: pack the environment again, or copy it again."
        )
    stream.seek(0)


def _read_members(path: Path, archive: tarfile.TarFile) -> PackContents:
    described: dict[str, bytes] = {}
    hashed: dict[str, tuple[str, int, str]] = {}
    seen: set[str] = set()
    for member in archive:
        if member.isdir() and _is_inside(member.name):
            continue
        name = _checked_name(path, member)
        if name in seen:
            raise PackError(f"{path} holds {name} twice: pack the environment again.")
        seen.add(name)
        stream = opened(archive, member)
        if name in (METADATA, ENVIRONMENT, RELIES_ON) or name.endswith(f"/{REPODATA}"):
            if member.size > _LARGEST_DESCRIPTION:
                raise PackError(f"{path} holds a {name} of {member.size} bytes: pack the environment again.")
            described[name] = stream.read()
        else:
            hashed[name] = (*_hash(stream), member.name)
    platform = _platform(path, described)
    files = {name: (sha256, size) for name, (sha256, size, _) in hashed.items()}
    relied_on = _relied_on(path, described)
    if twice := sorted(set(files) & set(relied_on)):
        raise PackError(f"{path} holds {', '.join(twice)} and relies on it as well: pack the environment again.")
    files |= relied_on
    conda = _conda_packages(path, platform, described, files)
    wheels = [_wheel(path, name, *files[name]) for name in sorted(files) if name.startswith(WHEELS)]
    names = {package.path: f"{CHANNEL}{package.path.removeprefix('conda/')}" for package in conda}
    names |= {wheel.path: wheel.path for wheel in wheels}
    members = {package: hashed[name][2] for package, name in names.items() if name in hashed}
    return PackContents(path, platform, tuple(conda), tuple(wheels), members)


def opened(archive: tarfile.TarFile, member: tarfile.TarInfo | str) -> IO[bytes]:
    """Return the content of a regular file in *archive*."""
    stream = archive.extractfile(member)
    if stream is None:
        raise PackError(f"{archive.name!r} holds something else than files: pack the environment again.")
    return stream


def _is_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return not name.startswith("/") and ".." not in parts


def _checked_name(path: Path, member: tarfile.TarInfo) -> str:
    """Return the member's name without a leading ``./``; raise unless a pack may hold it."""
    if not _is_inside(member.name):
        raise PackError(f"{path} holds {member.name!r}, which leads out of the archive: do not use this pack.")
    if not member.isreg():
        raise PackError(f"{path} holds {member.name!r}, which is a link or no ordinary file: do not use this pack.")
    name = PurePosixPath(member.name).as_posix()
    if name in (METADATA, ENVIRONMENT, RELIES_ON) or _is_package_name(path, name):
        return name
    raise PackError(f"{path} holds {name}, which is no part of a pack: pack the environment again with pixi-pack.")


def _is_package_name(path: Path, name: str) -> bool:
    """Whether *name* is where a pack has a package, or its channel's index. Raises PackError for other than wheels."""
    count = name.count("/")
    if count == 1 and name.startswith(WHEELS) and not name.endswith(".whl"):
        raise PackError(f"{path} holds {name}, which is no wheel: lock wheels only, and pack the environment again.")
    return (count == 2 and name.startswith(CHANNEL)) or (count == 1 and name.startswith(WHEELS))


def _hash(stream: IO[bytes]) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while block := stream.read(_BLOCK_BYTES):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size


def _platform(path: Path, described: Mapping[str, bytes]) -> str:
    if METADATA not in described:
        raise PackError(f"{path} has no {METADATA}: pack the environment with pixi-pack or build-bundle.py pack-flow.")
    metadata = _parsed(path, METADATA, described[METADATA])
    expected = THIN_VERSION if RELIES_ON in described else FORMAT_VERSION
    if metadata.get("version") != expected:
        raise PackError(
            f"{path} has pixi-pack's format version {metadata.get('version')!r}, and {expected!r} is read: pack "
            "it with a pixi-pack that writes that."
        )
    return str(metadata.get("platform"))


def _relied_on(path: Path, described: Mapping[str, bytes]) -> dict[str, tuple[str, int]]:
    """Return SHA-256 and size of the packages that a thin pack relies on, by their names in a pack."""
    if RELIES_ON not in described:
        return {}
    document = _parsed(path, RELIES_ON, described[RELIES_ON])
    try:
        if document["format_version"] != RELIES_ON_VERSION:
            raise ValueError(f"format version {document['format_version']!r}")
        packages = {}
        for package in document["packages"]:
            name = re.sub("^conda/", CHANNEL, package["path"])
            if not _is_inside(name) or not _is_package_name(path, name) or name.endswith(f"/{REPODATA}"):
                raise ValueError(f"{name!r} is no package")
            if not _SHA256.fullmatch(package["sha256"]):
                raise ValueError(f"{name!r} has no SHA-256")
            packages[name] = (package["sha256"], int(package["size"]))
    except (KeyError, TypeError, ValueError) as error:
        raise PackError(
            f"{path} holds a {RELIES_ON} that cannot be read ({error}): pack the environment again."
        ) from error
    return packages


def _conda_packages(
    path: Path, platform: str, described: Mapping[str, bytes], hashed: Mapping[str, tuple[str, int]]
) -> list[PackageFile]:
    records: dict[str, dict[str, Any]] = {}
    for name, content in described.items():
        if name.endswith(f"/{REPODATA}"):
            index = _parsed(path, name, content)
            for kind in ("packages", "packages.conda"):
                for file_name, record in index.get(kind, {}).items():
                    records[f"{name.removesuffix(REPODATA)}{file_name}"] = record
    files = {name for name in hashed if name.startswith(CHANNEL)}
    if unknown := sorted(files ^ set(records)):
        raise PackError(
            f"{path} and its own {REPODATA} do not list the same packages ({', '.join(unknown)}): pack the "
            "environment again."
        )
    packages = []
    for name, record in sorted(records.items()):
        subdir, file_name = name.split("/")[1:]
        sha256, size = hashed[name]
        if subdir not in ("noarch", platform) or record.get("subdir", subdir) != subdir:
            raise PackError(f"{path} is for {platform} and holds {name}: pack it for one platform.")
        if record.get("sha256") != sha256:
            raise PackError(f"{path} holds a {name} whose SHA-256 is not its record's: pack the environment again.")
        try:
            packages.append(
                PackageFile(
                    path=f"conda/{subdir}/{file_name}",
                    sha256=sha256,
                    size=size,
                    name=str(record["name"]),
                    version=str(record["version"]),
                    record={key: value for key, value in record.items() if key not in ("url", "channel", "fn")},
                )
            )
        except KeyError as error:
            raise PackError(f"{path} has a record of {name} without {error}: pack the environment again.") from error
    return packages


def _wheel(path: Path, name: str, sha256: str, size: int) -> PackageFile:
    try:
        wheel = WheelName.parse(name.removeprefix(WHEELS))
    except ValueError as error:
        raise PackError(f"{path} holds {name}, and {error}: pack the environment again.") from error
    return PackageFile(name, sha256, size, wheel.name, wheel.version)


def _parsed(path: Path, name: str, content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
        if not isinstance(document, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise PackError(f"{path} holds a {name} that cannot be read ({error}): pack the environment again.") from error
    return document
