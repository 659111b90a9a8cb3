"""What a site has: the file ``have.json``, written on the controller and read by whoever builds a delta.

It names packages, digests, environments and flows, and the nodes' Debian packages; no host, no address, no secret.
Standard library only, for the controller.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airgap.errors import ManifestError

FORMAT_VERSION = 1
HAVE_NAME = "have.json"

_SHA256 = re.compile(r"[0-9a-f]{64}")
# A package and its architecture, as dpkg prints ${Package}:${Architecture}.
_DEBIAN_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+:[a-z0-9-]+")
# deb-version(7), loosely: what matters is that a version is one word, for it is written into a status file.
_DEBIAN_VERSION = re.compile(r"[A-Za-z0-9.+:~-]+")
_MIRROR = "mirror/"


@dataclass(frozen=True)
class HavePackage:
    """A package in the controller's mirror."""

    path: str
    """Below the bundle's root; begins with ``mirror/``."""
    sha256: str
    size: int
    """Bytes."""
    licence: str | None = None
    """As the bundle that brought it said; None where that is not known."""


@dataclass(frozen=True)
class HaveEnvironment:
    """An environment that the controller describes."""

    name: str
    target: str
    digest: str


@dataclass(frozen=True)
class HaveFlow:
    """A deployed flow."""

    flow: str
    deployment: str
    environment: str
    """Name of its environment's directory: the environment's name and twelve digits of its digest."""
    work_pool: str | None = None


@dataclass(frozen=True)
class HaveNodes:
    """Nodes whose Debian packages are the same."""

    count: int
    packages: Mapping[str, str] = field(default_factory=dict)
    """Versions by ``name:architecture``, where they differ from what is common."""
    without: tuple[str, ...] = ()
    """What is common and not on these nodes."""


@dataclass(frozen=True)
class HaveSystem:
    """The Debian packages on the nodes of one target."""

    target: str
    common: Mapping[str, str] = field(default_factory=dict)
    """Versions, by ``name:architecture``, of what nodes have unless they are said to differ."""
    nodes: tuple[HaveNodes, ...] = ()

    def statuses(self) -> Iterator[dict[str, str]]:
        """Yield the packages of each kind of node: versions by ``name:architecture``."""
        for nodes in self.nodes:
            common = {name: version for name, version in self.common.items() if name not in nodes.without}
            yield common | dict(nodes.packages)


@dataclass(frozen=True)
class Have:
    """What a site has."""

    created_by: str
    prefect_version: str | None
    """Of the base environment that is installed."""
    targets: tuple[str, ...]
    packages: tuple[HavePackage, ...]
    contents: frozenset[str]
    """SHA-256 of all other files that the controller keeps."""
    environments: tuple[HaveEnvironment, ...] = ()
    flows: tuple[HaveFlow, ...] = ()
    systems: tuple[HaveSystem, ...] = ()

    def to_json(self) -> str:
        """Return the document as JSON; the same state gives the same text."""
        document = {
            "format_version": FORMAT_VERSION,
            "created_by": self.created_by,
            "prefect_version": self.prefect_version,
            "targets": sorted(self.targets),
            "packages": {package.path: _package_entry(package) for package in self.packages},
            "contents": sorted(self.contents),
            "environments": sorted((vars(entry) for entry in self.environments), key=_canonical),
            "flows": sorted((vars(entry) for entry in self.flows), key=_canonical),
            "systems": sorted((_system_entry(system) for system in self.systems), key=_canonical),
        }
        return json.dumps(document, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, origin: str) -> Have:
        """Return what *text* tells; *origin* names it in errors.

        Raises ManifestError when the text is of another format version or has not the documented form.
        """
        try:
            document = json.loads(text)
            version = document["format_version"]
            if version != FORMAT_VERSION:
                raise ManifestError(
                    f"{origin} has format version {version}, this software reads {FORMAT_VERSION}: write it again with "
                    "have.yml of a bundle of the same version as this software."
                )
            return cls(
                created_by=_text(document["created_by"]),
                prefect_version=_optional_text(document["prefect_version"]),
                targets=tuple(_text(name) for name in document["targets"]),
                packages=tuple(_package(path, entry) for path, entry in sorted(document["packages"].items())),
                contents=frozenset(_sha256(digest) for digest in document["contents"]),
                environments=tuple(HaveEnvironment(**entry) for entry in document["environments"]),
                flows=tuple(HaveFlow(**entry) for entry in document["flows"]),
                systems=tuple(_system(entry) for entry in document["systems"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ManifestError(
                f"{origin} does not say what a site has ({error!r}): write it again with have.yml, and carry it over "
                "unchanged."
            ) from error

    @classmethod
    def from_file(cls, path: Path) -> Have:
        """Read the file at *path*; errors as in :meth:`from_json`."""
        return cls.from_json(path.read_text(encoding="utf-8"), str(path))


def _canonical(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, sort_keys=True)


def _package_entry(package: HavePackage) -> dict[str, Any]:
    entry: dict[str, Any] = {"sha256": package.sha256, "size": package.size}
    if package.licence is not None:
        entry["licence"] = package.licence
    return entry


def _system_entry(system: HaveSystem) -> dict[str, Any]:
    return {
        "target": system.target,
        "common": dict(system.common),
        "nodes": sorted(
            (
                {"count": nodes.count, "packages": dict(nodes.packages), "without": sorted(nodes.without)}
                for nodes in system.nodes
            ),
            key=_canonical,
        ),
    }


def _package(path: str, entry: Mapping[str, Any]) -> HavePackage:
    if not path.startswith(_MIRROR) or ".." in path.split("/"):
        raise ValueError(f"{path!r} is no path in the mirror")
    size = entry["size"]
    if not isinstance(size, int) or size < 0:
        raise ValueError(f"{path!r} has no size")
    return HavePackage(path, _sha256(entry["sha256"]), size, _optional_text(entry.get("licence")))


def _system(entry: Mapping[str, Any]) -> HaveSystem:
    return HaveSystem(
        target=_text(entry["target"]),
        common=_debian_packages(entry["common"]),
        nodes=tuple(
            HaveNodes(int(nodes["count"]), _debian_packages(nodes["packages"]), tuple(map(_text, nodes["without"])))
            for nodes in entry["nodes"]
        ),
    )


def _debian_packages(entries: Mapping[str, str]) -> dict[str, str]:
    for package, version in entries.items():
        if not _DEBIAN_PACKAGE.fullmatch(package) or not _DEBIAN_VERSION.fullmatch(version):
            raise ValueError(f"{package!r} {version!r} is no Debian package with its version")
    return dict(entries)


def _sha256(value: str) -> str:
    if not _SHA256.fullmatch(value):
        raise ValueError(f"{value!r} is no SHA-256")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _optional_text(value: object) -> str | None:
    return None if value is None else _text(value)
