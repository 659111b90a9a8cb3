"""Finds out what environments are made of, on every target, and whether they fit together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from packaging.version import Version

from airgap.cache import Cache
from airgap.delta import node_statuses
from airgap.environment import Environment, PackageFile
from airgap.errors import ResolutionError
from airgap.network import Network
from airgap.plan import BASE, PIXI_ENVIRONMENT, TOOLKIT, BuildOptions, EnvironmentPlan
from airgap.progress import Progress
from airgap.sources.apt import AptSource, apt_source, packages_of
from airgap.sources.conda import CondaSource
from airgap.sources.interface import Download, GeneratedFile
from airgap.sources.package_index import PackageIndex
from airgap.sources.wheels import WheelSource
from airgap.system_python import system_python_package
from airgap.targets import Target

_MIRROR = "mirror/"
_ENVIRONMENTS_AT_ONCE = 4
_APT_AT_ONCE = 4


@dataclass(frozen=True)
class Sources:
    """One of each kind."""

    conda: CondaSource
    wheels: WheelSource
    apt: AptSource

    @classmethod
    def of(cls, options: BuildOptions, network: Network, apt: AptSource | None = None) -> Sources:
        """Return the sources that *options* and *network* lead to, with *apt* where there is one already."""
        return cls(
            conda=CondaSource(options.channels, network, Cache(options.cache)),
            wheels=WheelSource(PackageIndex(network, options.cache)),
            apt=apt or apt_source(options),
        )


@dataclass(frozen=True)
class Resolved:
    """An environment for a target, with where its packages come from."""

    plan: EnvironmentPlan
    target: Target
    interpreter_version: str
    downloads: tuple[Download, ...]
    generated: tuple[tuple[GeneratedFile, PackageFile], ...] = ()

    def describe(self, sizes: Mapping[str, int]) -> Environment:
        """Return the environment's description; *sizes* are in bytes, by the downloads' ``path``."""
        packages = [
            *(_package_file(download, sizes[download.path]) for download in self.downloads),
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
    extras: tuple[Download, ...] = ()
    """Wheels and conda packages that no environment asks for."""
    system_updates: tuple[Download, ...] = ()
    """Security updates of the site's nodes, with what else they need."""

    @property
    def packages(self) -> list[Download]:
        """The downloads that travel, each path once."""
        downloads = [download for environment in self.environments for download in environment.downloads]
        return _unique([*downloads, *self.debian_packages, *self.extras, *self.system_updates])

    @property
    def downloads(self) -> list[Download]:
        """All downloads."""
        return [*self.packages, self.collections]

    @property
    def generated_packages(self) -> dict[str, tuple[GeneratedFile, PackageFile]]:
        """The packages that the builder made, by path."""
        return {file.path: (file, package) for resolved in self.environments for file, package in resolved.generated}


def resolve(
    options: BuildOptions,
    plans: Sequence[EnvironmentPlan],
    sources: Sources,
    progress: Progress,
    found: Callable[[Iterable[Download]], None] = lambda downloads: None,
) -> Contents:
    """Return what the environments of *plans*, the Debian packages and the extra packages are made of on every target.

    *found* is told of downloads as soon as they are known, from any thread.
    """
    debian_names = packages_of(options.root, options.extra_debs)

    def debian(target: Target) -> list[Download]:
        downloads = sources.apt.resolve(debian_names, target)
        found(downloads)
        return downloads

    def updates(target: Target) -> list[Download]:
        downloads = sources.apt.security_updates(node_statuses(options.base, target.name), target)
        found(downloads)
        return downloads

    def environment(work: tuple[EnvironmentPlan, Target]) -> Resolved:
        resolved = resolve_environment(*work, sources, found)
        found(resolved.downloads)
        return resolved

    # apt works in processes of its own: let it, while the package index is asked.
    with (
        progress.step("Resolving environments and Debian packages"),
        ThreadPoolExecutor(_APT_AT_ONCE) as apt_pool,
        _pool_without_waiting(_ENVIRONMENTS_AT_ONCE) as pool,
    ):
        debian_futures = [apt_pool.submit(debian, target) for target in options.targets]
        update_futures = [apt_pool.submit(updates, target) for target in options.targets if options.system_updates]
        environments = pool.map(environment, [(plan, target) for plan in plans for target in options.targets])
        (collections,) = sources.wheels.resolve(
            options.root / "requirements" / "collections.txt",
            options.targets[0],
            options.targets[0].release.python,
            found,
        )
        extras = _extras(options, sources)
        found([collections, *extras])
        return Contents(
            tuple(environments),
            tuple(download for future in debian_futures for download in future.result()),
            collections,
            tuple(extras),
            tuple(download for future in update_futures for download in future.result()),
        )


@contextmanager
def _pool_without_waiting(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool that is not waited for: after an error or Ctrl-C its threads may sit in a read for a minute."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _extras(options: BuildOptions, sources: Sources) -> list[Download]:
    """Return the wheels and conda packages that travel besides the environments, for every target."""
    downloads: list[Download] = []
    for target in options.targets:
        for requirements in options.extra_wheels:
            downloads += sources.wheels.resolve(requirements, target, target.release.python)
        for extra in options.extra_conda:
            downloads += sources.conda.resolve_extra(extra, target)
    return _unique(downloads)


def resolve_environment(
    plan: EnvironmentPlan,
    target: Target,
    sources: Sources,
    found: Callable[[Iterable[Download]], None] = lambda downloads: None,
) -> Resolved:
    """Return what the environment of *plan* is made of on *target*; *found* is told of wheels as they are found."""
    if plan.interpreter == "conda":
        locked = sources.conda.resolve(plan.lock, PIXI_ENVIRONMENT, target)
        return Resolved(plan, target, locked.python, (*locked.conda, *locked.wheels))
    python = target.release.python
    wheels = tuple(sources.wheels.resolve(plan.lock, target, python, found))
    # The toolkit is unzipped, by the node's Python: it is what installs environments.
    generated = () if plan.name == TOOLKIT else (system_python_package(target),)
    return Resolved(plan, target, python, wheels, generated)


def check_prefect_versions(plans: Sequence[EnvironmentPlan], targets: Iterable[Target], sources: Sources) -> None:
    """Raise ResolutionError when a flow's Prefect is newer than the base environment's on one of *targets*.

    Reads the locks only: nothing is asked or fetched.
    """
    base = next((plan for plan in plans if plan.name == BASE), None)
    for target in targets:
        server = _prefect_version(base, target, sources) if base else None
        for plan in plans:
            if plan.flow is None or server is None:
                continue
            version = _prefect_version(plan, target, sources)
            if version is not None and Version(version) > Version(server):
                raise ResolutionError(
                    f"The flow {plan.flow} has Prefect {version}, which is newer than the server's {server}: lock the "
                    f"flow with prefect<={server}, or update the base environment first."
                )


def _prefect_version(plan: EnvironmentPlan, target: Target, sources: Sources) -> str | None:
    if plan.interpreter == "conda":
        locked = sources.conda.resolve(plan.lock, PIXI_ENVIRONMENT, target)
        packages = {download.name: download.version for download in (*locked.conda, *locked.wheels)}
    else:
        packages = sources.wheels.versions(plan.lock, target, target.release.python)
    return packages.get("prefect")


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


def _package_file(download: Download, size: int) -> PackageFile:
    return PackageFile(
        path=download.path.removeprefix(_MIRROR),
        sha256=download.sha256,
        size=size,
        name=download.name,
        version=download.version,
        record=dict(download.record) if download.record is not None else None,
    )
