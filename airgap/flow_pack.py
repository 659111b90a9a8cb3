"""Packs one flow's environment, for a flow that is deployed later than the bundle it runs with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from airgap.cache import Cache
from airgap.delta import Base
from airgap.environment import Environment
from airgap.errors import PackError
from airgap.fetch import Fetcher
from airgap.have import HavePackage
from airgap.lock_check import check_pixi_lock, check_requirements
from airgap.network import Network
from airgap.pack_checks import check_entrypoints, check_prefect, check_targets
from airgap.pack_writer import Thin, write_pack
from airgap.plan import (
    LOCK_NAME,
    BuildOptions,
    Choice,
    check_flow_names,
    choose_interpreter,
    plan_flow,
)
from airgap.progress import Progress
from airgap.resolve import Resolved, Sources, resolve_environment
from airgap.targets import Target

_MIRROR = "mirror/"


@dataclass(frozen=True)
class PackOptions:
    """What the author asked for, besides what a build has too."""

    entrypoint: str | None = None
    """``main.py:my_workflow``; None for those of ``prefect.yaml``, or any."""
    prefect_version: str | None = None
    """The cluster's; None for the one that the site tells, if it is known."""


@dataclass(frozen=True)
class WrittenPack:
    """A pack that was written."""

    path: Path
    environment: Environment
    left_out: tuple[str, ...]
    """Paths below the mirror of the packages that the site has, and that do not travel."""


def pack_flow(
    options: BuildOptions,
    asked: PackOptions,
    network: Network,
    progress: Progress,
    announce: Callable[[Choice], None],
    sources: Sources | None = None,
) -> tuple[list[WrittenPack], Choice]:
    """Write the packs of the one flow in *options*, one for each target, and return what is in them.

    With a base in *options*, they are thin: what that site has does not travel. *announce* is told the choice of Python
    before anything is fetched. Raises AirgapError when the cluster would refuse the flow, or something cannot be had;
    nothing is written then.
    """
    (flow,) = options.flows
    check_flow_names([flow])
    if options.base is not None:
        check_targets(options.targets, options.base.have.targets)
    check_entrypoints(flow, asked.entrypoint)
    outputs = pack_paths(options.output, options.targets)
    sources = sources or Sources.of(options, network)
    choice = choose_interpreter(options.python, [flow / LOCK_NAME], sources.conda)
    announce(choice)
    environments = _resolve(flow, choice, options, asked, sources, progress)
    present = _present(environments, options.base)
    cache = Cache(options.cache)
    downloads = {download.path: download for resolved in environments for download in resolved.downloads}
    wanted = [download for path, download in downloads.items() if path not in present]
    with progress.step(f"Fetching {len(wanted)} files, of those that the cache lacks"):
        fetched = dict(Fetcher(cache, network, progress, elsewhere=sources.wheels.elsewhere).fetch(wanted))
    fetched |= {file.path: cache.store(file.content) for resolved in environments for file, _ in resolved.generated}
    sizes = {path: package.size for path, package in present.items()}
    sizes |= {path: file.stat().st_size for path, file in fetched.items()}
    packs = []
    for resolved, output in zip(environments, outputs, strict=True):
        environment = resolved.describe(sizes)
        left_out = tuple(package.path for package in environment.files if _MIRROR + package.path in present)
        thin = Thin(options.base.digest, left_out) if options.base is not None and left_out else None
        with progress.step(f"Writing {output}"):
            write_pack(environment, lambda path: fetched[_MIRROR + path], output, thin)
        packs.append(WrittenPack(output, environment, left_out))
    return packs, choice


def pack_paths(output: Path, targets: Sequence[Target]) -> list[Path]:
    """Return where the packs for *targets* are written: *output*, or names beside it where there are several.

    Raises PackError when a pack would not be used, because one for its target is there already under such a name.
    """
    named = [output.with_name(f"{output.stem}.{target.name}{output.suffix}") for target in targets]
    if len(targets) > 1:
        return named
    if named[0].exists():
        raise PackError(
            f"{named[0]} is there from an earlier packing for several targets, and nodes would take it instead of "
            f"{output.name}: remove it, or give all --target."
        )
    return [output]


def _resolve(
    flow: Path, choice: Choice, options: BuildOptions, asked: PackOptions, sources: Sources, progress: Progress
) -> list[Resolved]:
    """Return the flow's environment for each target, after a look at its lock, its manifest and its Prefect."""
    plan = plan_flow(flow, choice.interpreter)
    check_lock = check_pixi_lock if plan.interpreter == "conda" else check_requirements
    for target in options.targets:
        check_lock(plan.lock, target)
    with progress.step(f"Resolving {flow.name} for {', '.join(target.name for target in options.targets)}"):
        environments = [resolve_environment(plan, target, sources) for target in options.targets]
    newest = asked.prefect_version or (options.base.have.prefect_version if options.base is not None else None)
    for resolved in environments:
        version = next((download.version for download in resolved.downloads if download.name == "prefect"), None)
        check_prefect(flow, version, newest)
    return environments


def _present(environments: Iterable[Resolved], base: Base | None) -> dict[str, HavePackage]:
    """Return what of *environments* the site has, with the same content, by path below the bundle's root."""
    if base is None:
        return {}
    needed = {download.path: download.sha256 for resolved in environments for download in resolved.downloads}
    needed |= {file.path: package.sha256 for resolved in environments for file, package in resolved.generated}
    found = {path: base.package(path, sha256) for path, sha256 in needed.items()}
    return {path: package for path, package in found.items() if package is not None}
