"""Builds a bundle: plan, resolve, fetch, describe, write."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from airgap.archive import write_archive
from airgap.assemble import assemble
from airgap.cache import Cache
from airgap.errors import AirgapError
from airgap.fetch import Fetcher
from airgap.network import Network
from airgap.plan import LOCK_NAME, BuildOptions, Choice, choose_interpreter, plan_environments
from airgap.progress import Progress, human_size
from airgap.resolve import Contents, Sources, check_prefect_versions, resolve
from airgap.sources.interface import Download


@dataclass(frozen=True)
class Result:
    """What a build made, or would make."""

    choice: Choice
    contents: Contents
    missing: tuple[Download, ...]
    """What had to be fetched."""
    sizes: Mapping[str, int]
    """Bytes of each download, by SHA-256; 0 where that is not known before it is fetched."""
    output: Path | None
    size: int
    """Bytes of the archive; of a dry run, of the packages."""
    digest: str = ""
    """SHA-256 of SHA256SUMS."""


def build(
    options: BuildOptions,
    network: Network,
    progress: Progress,
    announce: Callable[[Choice], None],
    sources: Sources | None = None,
) -> Result:
    """Build the bundle that *options* ask for and return what was made.

    *announce* is told the choice of Python before anything is fetched. Raises AirgapError; the output is
    then as it was before.
    """
    sources = sources or Sources.of(options, network)
    locks = [options.root / LOCK_NAME, *(flow / LOCK_NAME for flow in options.flows)]
    choice = choose_interpreter(options.python, locks, sources.conda)
    announce(choice)
    plans = plan_environments(options.root, options.flows, choice.interpreter)
    cache = Cache(options.cache)
    fetcher = Fetcher(cache, network, progress)
    contents = resolve(options, plans, sources, progress)
    check_prefect_versions(contents.environments)
    with progress.step("Looking into the cache"):
        missing = tuple(fetcher.missing(contents.downloads))
        sizes = fetcher.sizes(contents.downloads)
    if options.dry_run:
        return Result(choice, contents, missing, sizes, None, sum(sizes[file.sha256] for file in contents.packages))
    _check_room(options, contents, missing, sizes)
    with progress.step(f"Fetching {len(missing)} of {len(contents.downloads)} files"):
        # What the cache has was hashed a moment ago, and is hashed again while the archive is written.
        fetched = fetcher.fetch_missing(contents.downloads, missing)
    with progress.step("Writing the bundle"):
        entries, digest = assemble(options, choice, contents, sources, cache, fetched)
        write_archive(options.output, entries)
    return Result(choice, contents, missing, sizes, options.output, options.output.stat().st_size, digest)


def _check_room(
    options: BuildOptions, contents: Contents, missing: Sequence[Download], sizes: Mapping[str, int]
) -> None:
    needs = {
        options.cache: sum(sizes[download.sha256] for download in missing),
        options.output.parent: sum(sizes[download.sha256] for download in contents.packages),
    }
    for directory, size in needs.items():
        existing = next(path for path in (directory, *directory.resolve().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if free < size:
            raise AirgapError(
                f"{directory} has {human_size(free)} free and {human_size(size)} are needed: make room, or name other "
                "places with --cache and --output."
            )
