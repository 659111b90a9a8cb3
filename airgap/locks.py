"""Reads ``pixi.lock``: the packages of one environment on one platform, and the channels they come from."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airgap.addresses import redact, redact_text
from airgap.errors import LockError
from airgap.wheel_names import WheelName

if TYPE_CHECKING:
    import rattler

SUPPORTED_VERSIONS = range(5, 8)
_VERSION = re.compile(r"^version:\s*(\d+)\s*$", re.MULTILINE)
_MOST_SHOWN = 10
_CONDA_SUFFIXES = (".conda", ".tar.bz2")


@dataclass(frozen=True)
class LockedCondaPackage:
    """A conda package that a lock names."""

    url: str = field(repr=False)
    """May hold a token."""
    file_name: str
    subdir: str
    sha256: str
    record: dict[str, Any]
    """As in repodata.json; holds no address."""

    @property
    def channel(self) -> str:
        """Address of the channel, without a slash at its end; may hold a token."""
        return self.url.rsplit("/", 2)[0]

    @property
    def channel_name(self) -> str:
        """Last part of the channel's address, without its token: ``conda-forge``."""
        return redact(self.channel).removesuffix("/t/***").rpartition("/")[2]


@dataclass(frozen=True)
class LockedWheel:
    """A wheel that a lock names."""

    url: str = field(repr=False)
    file_name: str
    sha256: str
    name: str
    """Normalised (PEP 503)."""
    version: str
    requires_python: str | None


@dataclass(frozen=True)
class LockedPackages:
    """What one environment of a lock is made of on one platform."""

    conda: tuple[LockedCondaPackage, ...]
    wheels: tuple[LockedWheel, ...]


def read_lock(path: Path, environment: str, platform: str) -> LockedPackages:
    """Return what *environment* is made of on *platform* (conda's name, ``linux-64``) by the lock at *path*.

    Raises LockError when the lock cannot be read, has no such environment or platform, or names packages that cannot
    be carried: source packages, source archives, local paths, and files without a SHA-256. All of them are named.
    """
    locked = _environment(path, environment)
    platforms = {str(candidate.subdir): candidate for candidate in locked.platforms()}
    if platform not in platforms:
        raise LockError(
            f"{path} has no packages for {platform} in its environment {environment} (it has "
            f"{', '.join(sorted(platforms)) or 'none'}): add {platform} to pixi.toml's platforms and run pixi lock."
        )
    conda: list[LockedCondaPackage] = []
    wheels: list[LockedWheel] = []
    faults: list[str] = []
    for package in locked.packages(platforms[platform]) or []:
        try:
            kind = type(package).__name__
            if kind == "CondaLockedBinaryPackage":
                conda.append(_conda_package(package, path.parent))
            elif kind == "PypiLockedPackage":
                wheels.append(_wheel(package))
            else:
                raise _CannotBeCarriedError(f"{package.name} is a source package, which would have to be built first")
        except _CannotBeCarriedError as fault:
            faults.append(str(fault))
    if faults:
        raise LockError(
            f"{path} names what cannot be carried to a node ({_joined(faults)}): take those from a "
            "channel, or from an index as wheels, and run pixi lock."
        )
    return LockedPackages(tuple(conda), tuple(wheels))


def read_channels(path: Path, environment: str) -> list[str]:
    """Return the addresses of the channels of *environment* in the lock at *path*; they may hold tokens."""
    from rattler import Channel

    channels = (str(channel) for channel in _environment(path, environment).channels())
    return [channel if "://" in channel else Channel(channel).base_url for channel in channels]


class _CannotBeCarriedError(Exception):
    """A package of a lock cannot be part of a bundle; the message is part of a sentence."""


def _environment(path: Path, name: str) -> rattler.Environment:
    from rattler import LockFile

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LockError(f"{path} cannot be read ({error}): lock the packages first (pixi lock).") from error
    version = _VERSION.search(text)
    if version is None:
        raise LockError(f"{path} is no pixi.lock (it states no version): make it with pixi lock.")
    if int(version[1]) not in SUPPORTED_VERSIONS:
        raise LockError(
            f"{path} has lock version {version[1]}, and versions {SUPPORTED_VERSIONS[0]} to {SUPPORTED_VERSIONS[-1]} "
            "are read: write it with a pixi that makes one of those, or take a newer version of this software."
        )
    try:
        lock = LockFile.from_path(path)
        environment = lock.environment(name)
        names = sorted(found for found, _ in lock.environments())
    except Exception as error:  # the library's own errors have no common base
        raise LockError(f"{path} cannot be read ({_without_secrets(error)}): make it again with pixi lock.") from None
    if environment is None:
        raise LockError(f"{path} has no environment {name} (it has {', '.join(names)}): name it {name} in pixi.toml.")
    return environment


def _without_secrets(error: Exception) -> str:
    """Return the first line of *error*, with what may be an address shortened."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return redact_text(text)


def _joined(faults: list[str]) -> str:
    shown = sorted(faults)[:_MOST_SHOWN]
    more = [f"and {len(faults) - len(shown)} more"] if len(faults) > len(shown) else []
    return "; ".join([*shown, *more])


def _conda_package(package: Any, directory: Path) -> LockedCondaPackage:
    location = str(package.location)
    if "://" not in location:  # the library turns file:// into a path
        location = (directory / location).resolve().as_uri()
    path = urlsplit(location).path
    file_name = unquote(path.rpartition("/")[2])
    record = package.repo_data_record()
    if record.sha256 is None:
        raise _CannotBeCarriedError(f"{file_name} has no SHA-256")
    if not file_name.endswith(_CONDA_SUFFIXES):
        raise _CannotBeCarriedError(f"{file_name} is no conda package")
    document = json.loads(record.to_json())
    return LockedCondaPackage(
        url=location.partition("#")[0],
        file_name=file_name,
        subdir=str(record.subdir),
        sha256=record.sha256.hex(),
        record={key: value for key, value in document.items() if key not in ("url", "channel", "fn")},
    )


def _wheel(package: Any) -> LockedWheel:
    location = str(package.location)
    shown = f"{package.name} {package.version or ''}".rstrip()
    if location.startswith(("git+", "hg+", "svn+", "bzr+")):
        raise _CannotBeCarriedError(f"{shown} comes from a source repository")
    if not re.match(r"(https?|file)://", location):
        raise _CannotBeCarriedError(f"{shown} is a path of the author's machine")
    parts = urlsplit(location)
    file_name = unquote(parts.path.rpartition("/")[2])
    if not file_name.endswith(".whl"):
        raise _CannotBeCarriedError(f"{shown} is a source archive ({file_name})")
    sha256 = _wheel_sha256(package, parts.fragment)
    if sha256 is None:
        raise _CannotBeCarriedError(f"{shown} has no SHA-256, so that what arrives could not be checked")
    try:
        parsed = WheelName.parse(file_name)
    except ValueError as error:
        raise _CannotBeCarriedError(str(error)) from error
    return LockedWheel(
        url=location.partition("#")[0],
        file_name=file_name,
        sha256=sha256,
        name=parsed.name,
        version=parsed.version,
        requires_python=package.requires_python,
    )


def _wheel_sha256(package: Any, fragment: str) -> str | None:
    """Return the wheel's SHA-256 from the lock's own field, or from the address, where pip's convention has it."""
    try:
        sha256 = package.hashes.sha256
    except AttributeError:  # what the library raises for an entry without hashes
        sha256 = None
    if sha256 is not None:
        return bytes(sha256).hex()
    match = re.search(r"(?:^|&)sha256=([0-9a-f]{64})(?:&|$)", fragment)
    return match[1] if match else None
