"""Finds out what environments are made of, on every target, and whether they fit together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from airgap.environment import Environment, PackageFile
from airgap.errors import ResolutionError
from airgap.network import Network
from airgap.plan import BASE, PIXI_ENVIRONMENT, TOOLKIT, BuildOptions, EnvironmentPlan
from airgap.progress import Progress
from airgap.sources.apt import AptSource, read_package_list
from airgap.sources.conda import CondaSource
from airgap.sources.interface import Download, GeneratedFile
from airgap.sources.package_index import PackageIndex
from airgap.sources.wheels import WheelSource
from airgap.system_python import system_python_package
from airgap.targets import Target

_MIRROR = "mirror/"


@dataclass(frozen=True)
class Sources:
    """One of each kind."""

    conda: CondaSource
    wheels: WheelSource
    apt: AptSource

    @classmethod
    def of(cls, options: BuildOptions, network: Network) -> Sources:
        """Return the sources that *options* and *network* lead to."""
        return cls(
            conda=CondaSource(options.channels),
            wheels=WheelSource(PackageIndex(network, options.cache)),
            apt=AptSource(options.cache, options.apt_mirrors),
        )


@dataclass(frozen=True)
class Resolved:
    """An environment for a target, with where its packages come from."""

    plan: EnvironmentPlan
    target: Target
    interpreter_version: str
    downloads: tuple[Download, ...]
    generated: tuple[tuple[GeneratedFile, PackageFile], ...] = ()

    def describe(self, fetched: Mapping[str, Path]) -> Environment:
        """Return the environment's description; *fetched* has the files, for their sizes."""
        packages = [
            *(_package_file(download, fetched[download.path]) for download in self.downloads),
            *(package for _, package in self.generated),
        ]
        return Environment(
            name=self.plan.name,
            target=self.target.name,
            interpreter=self.plan.interpreter,
            python=".".join(self.interpreter_version.split(".")[:2]),
            platform=self.target.conda_platform,
            conda=tuple(package for package in packages if package.record is not None),
            wheels=tuple(package for package in packages if package.record is None),
        )


@dataclass(frozen=True)
class Contents:
    """All that a bundle is made of, before it is fetched."""

    environments: tuple[Resolved, ...]
    debian_packages: tuple[Download, ...]
    collections: Download
    """The wheel that Ansible's collections are taken from; it does not travel itself."""

    @property
    def packages(self) -> list[Download]:
        """The downloads that travel, each path once."""
        downloads = [download for environment in self.environments for download in environment.downloads]
        return _unique([*downloads, *self.debian_packages])

    @property
    def downloads(self) -> list[Download]:
        """All downloads."""
        return [*self.packages, self.collections]

    @property
    def generated_packages(self) -> dict[str, tuple[GeneratedFile, PackageFile]]:
        """The packages that the builder made, by path."""
        return {file.path: (file, package) for resolved in self.environments for file, package in resolved.generated}


def resolve(options: BuildOptions, plans: Sequence[EnvironmentPlan], sources: Sources, progress: Progress) -> Contents:
    """Return what the environments of *plans* and the Debian packages are made of, for every target."""
    packages = read_package_list(options.root / "requirements" / "apt.txt")
    # apt works in processes of its own: let it, while the package index is asked.
    with ThreadPoolExecutor(1) as pool, progress.step("Resolving environments and Debian packages"):
        debian = [pool.submit(sources.apt.resolve, packages, target) for target in options.targets]
        environments = [resolve_environment(plan, target, sources) for plan in plans for target in options.targets]
        (collections,) = sources.wheels.resolve(
            options.root / "requirements" / "collections.txt", options.targets[0], options.targets[0].release.python
        )
        return Contents(
            tuple(environments),
            tuple(download for future in debian for download in future.result()),
            collections,
        )


def resolve_environment(plan: EnvironmentPlan, target: Target, sources: Sources) -> Resolved:
    """Return what the environment of *plan* is made of on *target*."""
    if plan.interpreter == "conda":
        locked = sources.conda.resolve(plan.lock, PIXI_ENVIRONMENT, target)
        return Resolved(plan, target, locked.python, (*locked.conda, *locked.wheels))
    python = target.release.python
    wheels = tuple(sources.wheels.resolve(plan.lock, target, python))
    # The toolkit is unzipped, by the node's Python: it is what installs environments.
    generated = () if plan.name == TOOLKIT else (system_python_package(target),)
    return Resolved(plan, target, python, wheels, generated)


def check_prefect_versions(environments: Iterable[Resolved]) -> None:
    """Raise ResolutionError when a flow's Prefect is newer than the base environment's of the same target."""
    environments = list(environments)
    base = {
        resolved.target.name: version
        for resolved in environments
        if resolved.plan.name == BASE and (version := _prefect_version(resolved))
    }
    for resolved in environments:
        version = _prefect_version(resolved)
        server = base.get(resolved.target.name)
        if resolved.plan.flow is None or version is None or server is None:
            continue
        if Version(version) > Version(server):
            raise ResolutionError(
                f"The flow {resolved.plan.flow} has Prefect {version}, which is newer than the server's {server}: lock "
                f"the flow with prefect<={server}, or update the base environment first."
            )


def _prefect_version(resolved: Resolved) -> str | None:
    return next((download.version for download in resolved.downloads if download.name == "prefect"), None)


def _unique(downloads: Iterable[Download]) -> list[Download]:
    by_path: dict[str, Download] = {}
    for download in downloads:
        other = by_path.setdefault(download.path, download)
        if other.sha256 != download.sha256:
            raise ResolutionError(
                f"Two environments lock different files with the name {download.display_name}: lock both from the same "
                "channel or index."
            )
    return list(by_path.values())


def _package_file(download: Download, path: Path) -> PackageFile:
    return PackageFile(
        path=download.path.removeprefix(_MIRROR),
        sha256=download.sha256,
        size=path.stat().st_size,
        name=download.name,
        version=download.version,
        record=dict(download.record) if download.record is not None else None,
    )
