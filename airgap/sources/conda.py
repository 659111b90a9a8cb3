"""Conda packages that ``pixi.lock`` files name, from their channels or from mirrors of those."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
import urllib3

from airgap.addresses import redact
from airgap.cache import Cache, default_cache
from airgap.errors import LockError
from airgap.fetch import Fetcher
from airgap.index_formats import render_repodata
from airgap.locks import LockedCondaPackage, LockedWheel, read_channels, read_lock
from airgap.network import Network
from airgap.sources.conda_extra import DEFAULT_ENVIRONMENT, CondaExtra
from airgap.sources.interface import Download, GeneratedFile, Source
from airgap.targets import Target
from airgap.wheel_names import WheelName

# Where else a channel that has no plain index keeps it.
_INDEX_NAMES = ("repodata.json.zst", "repodata.json")
# How files in the format of zstd(1) begin.
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
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

    def __init__(
        self, channels: Mapping[str, Sequence[str]], network: Network | None = None, cache: Cache | None = None
    ) -> None:
        """Take channels from the addresses in *channels*, the first that works.

        The keys are names of channels (``conda-forge``), or addresses: of a channel, or what several channels'
        addresses begin with, as in pixi's ``[mirrors]``. The longest that fits counts.
        """
        self._channels = {name.rstrip("/"): [url.rstrip("/") for url in urls] for name, urls in channels.items()}
        self._network = network or Network()
        self._cache = cache or Cache(default_cache())

    def channels_of(self, locks: Sequence[Path]) -> list[str]:
        """Return the addresses of the channels that the default environments of *locks* name, each once.

        They are as the locks have them, and may hold tokens.
        """
        urls = (url.rstrip("/") for lock in locks for url in read_channels(lock, DEFAULT_ENVIRONMENT))
        return list(dict.fromkeys(urls))

    def answers(self, channel: str, timeout: float) -> str | None:
        """Return None when *channel*, or a mirror of it, answers within *timeout* seconds, else why not, in words."""
        reasons = []
        for url in self._mapped(channel):
            if (reason := self._answer_of(url, timeout)) is None:
                return None
            reasons.append(reason)
        return "; ".join(reasons)

    def _answer_of(self, url: str, timeout: float) -> str | None:
        if url.startswith("file://"):
            directory = Path(unquote(urlsplit(url).path))
            return None if directory.is_dir() else f"the channel {directory} is not there"
        reason = ""
        with self._network.session(1) as session:
            for name in _INDEX_NAMES:
                try:
                    with session.get(f"{url}/noarch/{name}", stream=True, timeout=timeout) as response:
                        # A proxy's or a login's page is an answer too, but not the channel's.
                        start = response.raw.read(len(_ZSTANDARD), decode_content=False)
                        if response.status_code == requests.codes.ok and start.startswith((b"{", _ZSTANDARD)):
                            return None
                        page = "a web page" if start.lstrip().startswith(b"<") else "another file"
                        reason = page if response.ok else f"status {response.status_code}"
                except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
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
            wheels=tuple(self._wheel_download(wheel) for wheel in locked.wheels),
            python=version,
        )

    def index(self, downloads: Sequence[Download]) -> Iterable[GeneratedFile]:
        """Yield ``repodata.json`` of each subdirectory: with it, the mirror is a channel.

        There is one for ``noarch`` also when it has no packages: without it, no program takes a channel for one.
        """
        records: dict[str, dict[str, Any]] = {"noarch": {}}
        for download in downloads:
            _, _, subdir, file_name = download.path.split("/")
            records.setdefault(subdir, {})[file_name] = dict(download.record or {})
        for subdir, packages in sorted(records.items()):
            yield GeneratedFile(f"mirror/conda/{subdir}/repodata.json", render_repodata(subdir, packages), "index")

    def resolve_extra(self, extra: CondaExtra, target: Target) -> list[Download]:
        """Return the packages that *extra* asks for on *target*.

        Raises LockError when the lock cannot be carried, or the file is no package of a channel. Whether packages of a
        lock fit together is not asked: they are carried for people to install from.
        """
        if extra.lock is None:
            download = self._single_package(extra)
            if download.path.split("/")[2] not in ("noarch", target.conda_platform):
                return []
            return [self._with_record(download)]
        locked = read_lock(extra.lock, extra.environment, target.conda_platform)
        return [*map(self._download, locked.conda), *map(self._wheel_download, locked.wheels)]

    def _single_package(self, extra: CondaExtra) -> Download:
        parts = unquote(urlsplit(extra.url).path).rsplit("/", 2)
        stem = next((parts[-1].removesuffix(end) for end in (".conda", ".tar.bz2") if parts[-1].endswith(end)), "")
        names = stem.rsplit("-", 2)
        if len(parts) != 3 or len(names) != 3:
            raise LockError(
                f"{redact(extra.url)} is no conda package in a channel (CHANNEL/SUBDIR/NAME-VERSION-BUILD.conda): "
                "correct the address in extra-conda."
            )
        url, *mirrors = self._addresses(extra.url.rsplit("/", 2)[0], "/".join(extra.url.rsplit("/", 2)[1:]))
        return Download(
            url=url,
            path=f"mirror/conda/{parts[1]}/{parts[2]}",
            sha256=extra.sha256,
            size=None,
            kind="conda",
            name=names[0],
            version=names[1],
            mirrors=tuple(mirrors),
        )

    def _with_record(self, download: Download) -> Download:
        """Return *download* with its record, which is in the package: it is fetched for that, in a dry run too."""
        from rattler import PackageRecord
        from rattler.package_streaming import extract

        (path,) = Fetcher(self._cache, self._network).fetch([download]).values()
        with TemporaryDirectory() as directory:
            # The library tells the two formats apart by the name.
            named = Path(directory) / download.display_name
            named.symlink_to(path)
            try:
                extract(named, Path(directory) / "content")
                index = Path(directory) / "content" / "info" / "index.json"
                record = PackageRecord.from_index_json(index, size=path.stat().st_size, sha256=download.sha256)
            except Exception as error:  # the library's own errors have no common base
                raise LockError(
                    f"{download.display_name} is no conda package ({str(error).splitlines()[0]}): correct the address "
                    "in extra-conda."
                ) from None
        document = json.loads(record.to_json())
        return replace(
            download,
            size=path.stat().st_size,
            name=str(document["name"]),
            version=str(document["version"]),
            licence=document.get("license"),
            record=document,
        )

    def _mapped(self, channel: str) -> list[str]:
        """Return the addresses to take *channel* from, in the order to try."""
        channel = channel.rstrip("/")
        if mirrored := self._mirrored(channel):
            return mirrored
        path = re.sub(r"/t/[^/]+", "", urlsplit(channel).path)
        for name, urls in self._channels.items():
            if "://" not in name and path.endswith(f"/{name}"):
                return urls
        return [channel]

    def _mirrored(self, address: str) -> list[str]:
        """Return the addresses that take the place of *address* by its beginning; none when there are none."""
        prefixes = [name for name in self._channels if address == name or address.startswith(f"{name}/")]
        if not prefixes:
            return []
        prefix = max(prefixes, key=len)
        return [url + address[len(prefix) :] for url in self._channels[prefix]]

    def _addresses(self, channel: str, path: str) -> list[str]:
        """Return where the file at *path* of *channel* is, in the order to try."""
        return [f"{address}/{path}" for address in self._mapped(channel)]

    def _download(self, package: LockedCondaPackage) -> Download:
        url, *mirrors = self._addresses(package.channel, "/".join(package.url.rsplit("/", 2)[1:]))
        return Download(
            url=url,
            path=f"mirror/conda/{package.subdir}/{package.file_name}",
            sha256=package.sha256,
            size=package.record.get("size"),
            kind="conda",
            name=str(package.record["name"]),
            version=str(package.record["version"]),
            licence=package.record.get("license"),
            record=package.record,
            channel=package.channel_name,
            mirrors=tuple(mirrors),
        )

    def _wheel_download(self, wheel: LockedWheel) -> Download:
        url, *mirrors = self._mirrored(wheel.url) or [wheel.url]
        return Download(
            url=url,
            path=f"mirror/pypi/{wheel.file_name}",
            sha256=wheel.sha256,
            size=None,
            kind="wheel",
            name=wheel.name,
            version=wheel.version,
            mirrors=tuple(mirrors),
        )


def _kind(error: Exception) -> str:
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
