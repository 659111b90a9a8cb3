"""Packs one flow's environment, for a flow that is deployed later than the bundle it runs with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from airgap.cache import Cache
from airgap.environment import Environment
from airgap.fetch import Fetcher
from airgap.network import Network
from airgap.pack_writer import write_pack
from airgap.plan import LOCK_NAME, BuildOptions, Choice, check_flow_names, choose_interpreter, plan_flow
from airgap.progress import Progress
from airgap.resolve import Sources, resolve_environment

_MIRROR = "mirror/"


def pack_flow(
    options: BuildOptions,
    network: Network,
    progress: Progress,
    announce: Callable[[Choice], None],
    sources: Sources | None = None,
) -> tuple[Environment, Choice]:
    """Write the pack of the one flow in *options* to their output; return what is in it.

    *announce* is told the choice of Python before anything is fetched. Raises AirgapError; the output is then as it
    was before.
    """
    (flow,), (target,) = options.flows, options.targets
    check_flow_names([flow])
    sources = sources or Sources.of(options, network)
    choice = choose_interpreter(options.python, [flow / LOCK_NAME], sources.conda)
    announce(choice)
    cache = Cache(options.cache)
    with progress.step(f"Resolving {flow.name} for {target.name}"):
        resolved = resolve_environment(plan_flow(flow, choice.interpreter), target, sources)
    with progress.step(f"Fetching {len(resolved.downloads)} files, of those that the cache lacks"):
        fetched = dict(Fetcher(cache, network, progress).fetch(resolved.downloads))
    fetched |= {file.path: cache.store(file.content) for file, _ in resolved.generated}
    environment = resolved.describe(fetched)

    def lookup(path: str) -> Path:
        return fetched[_MIRROR + path]

    with progress.step(f"Writing {options.output}"):
        write_pack(environment, lookup, options.output)
    return environment, choice
