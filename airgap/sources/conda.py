"""Conda packages that ``pixi.lock`` files name, from their channels or from mirrors of those."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import requests

from airgap.addresses import redact
from airgap.errors import LockError
from airgap.locks import LockedCondaPackage, LockedWheel, read_channels, read_lock
from airgap.sources.interface import Download, GeneratedFile, Source
from airgap.targets import Target
from airgap.wheel_names import WheelName

_DEFAULT_ENVIRONMENT = "default"
# Where else a channel that has no plain index keeps it.
_INDEX_NAMES = ("repodata.json.zst", "repodata.json")
# Virtual packages that tell systems apart. Others, such as __cuda, say what a node has, which the builder cannot know.
_OTHER_SYSTEMS = frozenset({"__osx", "__win"})


@dataclass(frozen=True)
class LockedEnvironment:
    """What a lock's environment is made of, ready to fetch."""

    conda: tuple[Download, ...]
    wheels: tuple[Download, ...]
    python: str
    """Version of the conda package ``python``."""


class CondaSource(Source):
    """Conda channels, as locks name them."""

    def __init__(self, channels: Mapping[str, str]) -> None:
        """Take each channel in *channels*, a name (``conda-forge``) or an address, from the address given there."""
        self._channels = {name.rstrip("/"): url.rstrip("/") for name, url in channels.items()}

    def channels_of(self, locks: Sequence[Path]) -> list[str]:
        """Return the addresses of the channels that the default environments of *locks* name, each once.

        Addresses are those that packages would be fetched from. They may hold tokens.
        """
        urls = (url for lock in locks for url in read_channels(lock, _DEFAULT_ENVIRONMENT))
        return list(dict.fromkeys(self._mapped(url) for url in urls))

    def answers(self, url: str, timeout: float) -> str | None:
        """Return None when the channel at *url* answers within *timeout* seconds, else why not, in words."""
        if url.startswith("file://"):
            directory = Path(unquote(urlsplit(url).path))
            return None if directory.is_dir() else f"the channel {directory} is not there"
        reason = ""
        for name in _INDEX_NAMES:
            try:
                with requests.get(f"{url}/noarch/{name}", stream=True, timeout=timeout) as response:
                    # A proxy's or a login's page is an answer too, but not the channel's.
                    if response.status_code == requests.codes.ok and "html" not in response.headers.get(
                        "content-type", ""
                    ):
                        return None
                    reason = f"status {response.status_code}"
            except requests.RequestException as error:
                return f"the channel {redact(url)} does not answer ({_kind(error)})"
        return f"the channel {redact(url)} does not answer as one ({reason})"

    def resolve(self, lock: Path, environment: str, target: Target) -> LockedEnvironment:
        """Return what *environment* in *lock* is made of on *target*.

        Raises LockError when it cannot be carried (see :func:`airgap.locks.read_lock`), has no Python, does not hold
        together, or needs a newer C library than the target's.
        """
        locked = read_lock(lock, environment, target.conda_platform)
        python = next((package for package in locked.conda if package.record["name"] == "python"), None)
        if python is None:
            raise LockError(f"{lock} has no conda package python: add it with pixi add python.")
        version = str(python.record["version"])
        faults = [
            *_unmet_dependencies([package.record for package in locked.conda], target),
            *_unfit_wheels(locked.wheels, version, target),
        ]
        if faults:
            raise LockError(
                f"{lock} does not fit {target.name} ({'; '.join(faults)}): state the system's C library "
                f"(glibc {target.release.glibc}) in pixi.toml's system-requirements and run pixi update."
            )
        return LockedEnvironment(
            conda=tuple(self._download(package) for package in locked.conda),
            wheels=tuple(_wheel_download(wheel) for wheel in locked.wheels),
            python=version,
        )

    def index(self, downloads: Sequence[Download], fetched: Mapping[str, Path]) -> Iterable[GeneratedFile]:
        """Yield ``repodata.json`` of each subdirectory: with it, the mirror is a channel. *fetched* is not needed.

        There is one for ``noarch`` also when it has no packages: without it, no program takes a channel for one.
        """
        records: dict[str, dict[str, Any]] = {"noarch": {}}
        for download in downloads:
            _, _, subdir, file_name = download.path.split("/")
            records.setdefault(subdir, {})[file_name] = dict(download.record or {})
        for subdir, packages in sorted(records.items()):
            yield GeneratedFile(f"mirror/conda/{subdir}/repodata.json", render_repodata(subdir, packages), "index")

    def _mapped(self, channel: str) -> str:
        """Return the address to take *channel* from."""
        channel = channel.rstrip("/")
        if (url := self._channels.get(channel)) is not None:
            return url
        path = re.sub(r"/t/[^/]+", "", urlsplit(channel).path)
        for name, url in self._channels.items():
            if "://" not in name and path.endswith(f"/{name}"):
                return url
        return channel

    def _download(self, package: LockedCondaPackage) -> Download:
        subdir, file_name = package.url.rsplit("/", 2)[1:]
        return Download(
            url=f"{self._mapped(package.channel)}/{subdir}/{file_name}",
            path=f"mirror/conda/{package.subdir}/{package.file_name}",
            sha256=package.sha256,
            size=package.record.get("size"),
            kind="conda",
            name=str(package.record["name"]),
            version=str(package.record["version"]),
            licence=package.record.get("license"),
            record=package.record,
        )


def render_repodata(subdir: str, packages: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Return ``repodata.json`` of a channel's *subdir* with the records *packages*, by file name."""
    document = {
        "info": {"subdir": subdir},
        "packages": {name: record for name, record in packages.items() if name.endswith(".tar.bz2")},
        "packages.conda": {name: record for name, record in packages.items() if not name.endswith(".tar.bz2")},
        "removed": [],
        "repodata_version": 1,
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _wheel_download(wheel: LockedWheel) -> Download:
    return Download(
        url=wheel.url,
        path=f"mirror/pypi/{wheel.file_name}",
        sha256=wheel.sha256,
        size=None,
        kind="wheel",
        name=wheel.name,
        version=wheel.version,
    )


def _kind(error: requests.RequestException) -> str:
    """Return what went wrong in words; the error's own text would hold the address, and its token."""
    if isinstance(error, requests.Timeout):
        return "timed out"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not accepted"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return type(error).__name__


def _unmet_dependencies(records: Sequence[Mapping[str, Any]], target: Target) -> list[str]:
    """Return what *records* depend on and is not there, in words.

    Nodes install what is listed without a look at dependencies, so that this is the place to find a lock that was
    edited, or made for a newer system.
    """
    from rattler import BuildString, MatchSpec, PackageRecord

    present: dict[str, Any] = {}
    for record in records:
        present[str(record["name"])] = PackageRecord(
            str(record["name"]),
            str(record["version"]),
            BuildString(str(record.get("build", ""))),
            int(record.get("build_number", 0)),
            str(record["subdir"]),
        )
    for name, version in (("__glibc", target.release.glibc), ("__linux", "5.10"), ("__unix", "0")):
        present[name] = PackageRecord(name, version, BuildString("0"), 0, target.conda_platform)
    faults = []
    for record in records:
        for dependency in record.get("depends", []):
            name = dependency.partition(" ")[0].partition("[")[0]
            if name.startswith("__") and name not in present and name not in _OTHER_SYSTEMS:
                continue
            if name not in present:
                faults.append(f"{record['name']} needs {dependency}, which is not there")
            elif name.startswith("__linux") or ";" in dependency:
                continue  # the kernel's version is the node's own matter; conditions are the solver's
            elif not MatchSpec(dependency).matches(present[name]):
                faults.append(f"{record['name']} needs {dependency}, and {present[name].version} is there")
    return sorted(faults)


def _unfit_wheels(wheels: Iterable[LockedWheel], python: str, target: Target) -> list[str]:
    minor = ".".join(python.split(".")[:2])
    return sorted(
        f"{wheel.file_name} does not run with Python {minor} and glibc {target.release.glibc}"
        for wheel in wheels
        if not WheelName.parse(wheel.file_name).runs_on(minor, target.architecture, target.release.glibc)
    )
