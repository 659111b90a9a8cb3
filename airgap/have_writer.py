"""Writes what a site has (have.json) from the controller's ``/opt/pag`` and its nodes' Debian packages.

Standard library only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from airgap import __version__
from airgap.durable import has_content
from airgap.errors import AirgapError, InstallationError
from airgap.hashing import sha256_of_file
from airgap.have import Have, HaveEnvironment, HaveFlow, HaveNodes, HavePackage, HaveSystem
from airgap.site import Site
from airgap.wheel_licence import wheel_licence

_BASE = "prefect"


@dataclass(frozen=True)
class NodeStatus:
    """What dpkg says on one node."""

    target: str
    packages: Mapping[str, str]
    """Versions of installed packages, by ``name:architecture``."""


def describe(site: Site, nodes: Iterable[NodeStatus]) -> Have:
    """Return what *site* has and what is installed on its *nodes*; every file is hashed now.

    Raises AirgapError when no bundle is installed there, or its records cannot be read.
    """
    manifest = site.installed()
    if manifest is None:
        raise InstallationError(f"There is no bundle below {site.root}: run install-pag-controller.sh.")
    systems = group(nodes)
    environments = {HaveEnvironment(entry.name, entry.target, entry.digest) for entry in manifest.environments}
    for used in chain(site.bundle_environments(), site.flow_environments()):
        found = used.environment
        environments.add(HaveEnvironment(found.name, found.target, found.digest))
    return Have(
        created_by=f"pag {__version__}",
        prefect_version=next((entry.prefect_version for entry in manifest.environments if entry.name == _BASE), None),
        targets=tuple(sorted({target.name for target in manifest.targets} | {system.target for system in systems})),
        packages=tuple(_packages(site)),
        contents=frozenset(_contents(site)),
        environments=tuple(sorted(environments, key=lambda entry: (entry.name, entry.target, entry.digest))),
        flows=tuple(_flows(site)),
        systems=systems,
    )


def group(nodes: Iterable[NodeStatus]) -> tuple[HaveSystem, ...]:
    """Return the packages of *nodes* by target: what most have, and what differs from that; equal nodes are counted."""
    by_target: dict[str, list[Mapping[str, str]]] = {}
    for node in nodes:
        by_target.setdefault(node.target, []).append(node.packages)
    return tuple(_system(target, statuses) for target, statuses in sorted(by_target.items()))


def _system(target: str, statuses: Sequence[Mapping[str, str]]) -> HaveSystem:
    common = _common(statuses)
    counted = Counter(
        (
            tuple(sorted(status.items() - common.items())),
            tuple(sorted(common.keys() - status.keys())),
        )
        for status in statuses
    )
    kinds = (HaveNodes(count, dict(packages), without) for (packages, without), count in sorted(counted.items()))
    return HaveSystem(target, common, tuple(kinds))


def _common(statuses: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the packages, with the version that most nodes have, where that saves more words than it costs."""
    versions: dict[str, Counter[str]] = {}
    for status in statuses:
        for name, version in status.items():
            versions.setdefault(name, Counter())[version] += 1
    common = {}
    for name, counts in sorted(versions.items()):
        version, count = max(counts.items(), key=lambda item: (item[1], item[0]))
        if len(statuses) - count < counts.total():
            common[name] = version
    return common


def _packages(site: Site) -> list[HavePackage]:
    # As the builders of the kept bundles found them; only builders can read them out of every kind of package.
    licences = {
        file.sha256: file.licence for manifest in site.manifests() for file in manifest.all_files if file.licence
    }
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path: _package(path, site, licences), site.package_files()))


def _package(path: Path, site: Site, licences: Mapping[str, str | None]) -> HavePackage:
    sha256 = sha256_of_file(path)
    return HavePackage(
        path=path.relative_to(site.root).as_posix(),
        sha256=sha256,
        size=path.stat().st_size,
        licence=licences.get(sha256) or _licence(path),
    )


def _licence(path: Path) -> str | None:
    if path.suffix != ".whl":
        return None
    try:
        return wheel_licence(path)
    except AirgapError:  # damaged: its SHA-256 says that it is not what a bundle would rely on
        return None


def _contents(site: Site) -> list[str]:
    stored = [path for path in site.files.glob("??/*") if not path.name.startswith(".")]
    with ThreadPoolExecutor() as pool:
        whole = pool.map(lambda path: has_content(path, path.name), stored)
        return sorted(path.name for path, is_whole in zip(stored, whole, strict=True) if is_whole)


def _flows(site: Site) -> Iterable[HaveFlow]:
    flows = set()
    for record in site.flow_records():
        for environment in record.content["environments"].values():
            flows.add(
                HaveFlow(
                    record.content["flow"],
                    record.content["deployment"],
                    environment["directory"],
                    record.content["work_pool"],
                )
            )
    return sorted(flows, key=lambda entry: (entry.flow, entry.deployment, entry.environment))
