"""Builds a bundle: plan, resolve, fetch, describe, write.

apt has the longest way to go, through signatures and lists of all packages there are, and it goes that in processes of
its own: it begins first. What takes a while to load is loaded while apt, and then the network, are at work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from airgap.archive import blocks_after, head_of
from airgap.bundle_writer import check_room, write_bundle
from airgap.cache import Cache
from airgap.choosing import choose
from airgap.delta import Base, node_statuses
from airgap.errors import VerificationError
from airgap.manifest import Manifest
from airgap.network import Network
from airgap.plan import BuildOptions, Choice, EnvironmentPlan, plan_environments
from airgap.progress import Progress
from airgap.repeat import Inputs, remember
from airgap.signature import check_key
from airgap.sources.apt import apt_source, packages_of
from airgap.sources.files import INSTALLER_NAME
from airgap.sources.interface import Download

if TYPE_CHECKING:
    from airgap.fetch import Fetcher
    from airgap.resolve import Contents, Sources


@dataclass(frozen=True)
class Result:
    """What a build made, or would make."""

    choice: Choice
    contents: Contents
    manifest: Manifest
    """Of a dry run, without what is known only when everything was fetched."""
    missing: tuple[Download, ...]
    """What had to be fetched."""
    sizes: Mapping[str, int]
    """Bytes of each download that travels, by SHA-256; 0 where that is not known before it is fetched."""
    output: Path | None
    size: int
    """Bytes of the archive; of a dry run, of the files that would travel."""
    digest: str = ""
    """SHA-256 of SHA256SUMS."""
    complete: bool = True
    """Whether the manifest has all files; a dry run cannot tell Ansible's collections before their wheel is there."""
    volumes: int = 0
    """How many, where the archive was split; the output is their index then."""


def build(
    options: BuildOptions,
    network: Network,
    progress: Progress,
    announce: Callable[[Choice], None],
    sources: Sources | None = None,
    choice: Choice | None = None,
) -> Result:
    """Build the bundle that *options* ask for, with the Python of *choice*, and return what was made.

    *announce* is told the choice of Python before anything is fetched. Raises AirgapError; the output is
    then as it was before.
    """
    if options.sign_key is not None:
        check_key(options.sign_key)
    if options.system_updates:
        for target in options.targets:
            node_statuses(options.base, target.name)
    choice = choice or choose(options, network)
    announce(choice)
    plans = plan_environments(options.root, options.flows, choice.interpreter)
    apt = sources.apt if sources is not None else apt_source(options)
    with apt.ahead(packages_of(options.root, options.extra_debs), options.targets):
        from airgap.resolve import Sources

        sources = sources or Sources.of(options, network, apt)
        return _build(options, choice, plans, network, sources, progress)


def _build(
    options: BuildOptions,
    choice: Choice,
    plans: Sequence[EnvironmentPlan],
    network: Network,
    sources: Sources,
    progress: Progress,
) -> Result:
    from airgap.fetch import Fetcher
    from airgap.resolve import check_prefect_versions, resolve

    cache = Cache(options.cache)
    fetcher = Fetcher(cache, network, progress, elsewhere=sources.wheels.elsewhere)
    check_prefect_versions(plans, options.targets, sources)
    if options.dry_run:
        return _dry_run(options, choice, plans, sources, fetcher, progress)
    with _reading_licences(cache) as arrived, fetcher.start(arrived) as fetching:

        def found(downloads: Iterable[Download]) -> None:
            fetching.add(download for download in downloads if not _is_there(download, options.base))

        inputs = Inputs.of(options, choice, network, sources.apt)
        contents = resolve(options, plans, sources, progress, found)
        travelling = _travelling(options, contents)
        packages = [download for download in travelling if download is not contents.collections]
        _check_room(options, packages, fetcher.known_sizes(travelling), cache)
        with progress.step(f"Fetching {len(travelling)} files, of those that the cache lacks"):
            from airgap.assemble import Facts, assemble, describe, with_signature
            from airgap.licences import read_licences

            fetched = fetching.finish()

    def write(missing: Sequence[Download]) -> Result:
        # Of wheels, only now: their index need not tell.
        sizes = fetcher.known_sizes(travelling)
        _check_room(options, packages, sizes, cache)
        with progress.step("Reading licences"):
            licences = read_licences(packages, cache, progress, _relied_on(options.base, contents))
        with progress.step("Writing the bundle"):
            facts = Facts({path: file.stat().st_size for path, file in fetched.items()}, licences)
            state = describe(options, choice, contents, sources, facts, _hashed(contents.collections, cache))
            entries, digest = assemble(state, fetched)
            if options.sign_key is not None:
                entries = with_signature(entries, options.sign_key)
            head = head_of(entries)
            written = write_bundle(options, blocks_after(head, entries), state.generated[INSTALLER_NAME])
        remember(inputs, contents.debian_packages, head, entries, digest)
        return Result(
            choice, contents, state.manifest, tuple(missing), sizes, written.output, written.size, digest,
            volumes=written.volumes,
        )  # fmt: skip

    try:
        return write(fetching.missing)
    except Exception:
        # What was in the cache is hashed only while it is written. When it turns out to be damaged, that is why.
        damaged = fetcher.missing(travelling)
        if not damaged:
            raise
        names = ", ".join(download.display_name for download in damaged)
        with progress.step(f"Fetching what is damaged in the cache ({names}), to write the bundle again"):
            fetcher.fetch(damaged)
        return write([*fetching.missing, *damaged])


def _check_room(options: BuildOptions, packages: Sequence[Download], sizes: Mapping[str, int], cache: Cache) -> None:
    check_room(options, sum(sizes[package.sha256] for package in packages), sizes, cache)


@contextmanager
def _reading_licences(cache: Cache) -> Iterator[Callable[[Download], None]]:
    """Yield what to tell of packages that have arrived: their licences are read while others arrive."""
    pool = ThreadPoolExecutor(os.cpu_count())

    def read(package: Download) -> None:
        from airgap.licences import read_ahead

        read_ahead(package, cache)

    def arrived(package: Download) -> None:
        pool.submit(read, package)

    try:
        yield arrived
    finally:
        # What has not been read by then is read with progress.
        pool.shutdown(cancel_futures=True)


def _hashed(download: Download, cache: Cache) -> Path:
    """Return the file of a *download* that is not written, and so not hashed on the way."""
    path = cache.lookup(download.sha256)
    if path is None:
        raise VerificationError(f"{download.display_name} is damaged in the cache: start again.")
    return path


def _is_there(download: Download, base: Base | None) -> bool:
    """Return whether the site has *download*, which is then neither fetched nor needed in the cache."""
    return base is not None and base.package(download.path, download.sha256) is not None


def _relied_on(base: Base | None, contents: Contents) -> Iterator[Download]:
    """Yield the packages that the site of *base* has, with the licences that it tells."""
    for download in contents.packages:
        if base is not None and (present := base.package(download.path, download.sha256)) is not None:
            yield replace(download, licence=present.licence)


def _travelling(options: BuildOptions, contents: Contents) -> list[Download]:
    return [download for download in contents.downloads if not _is_there(download, options.base)]


def _dry_run(
    options: BuildOptions,
    choice: Choice,
    plans: Sequence[EnvironmentPlan],
    sources: Sources,
    fetcher: Fetcher,
    progress: Progress,
) -> Result:
    """Return what a build would make, without fetching anything."""
    from airgap.assemble import Facts, describe
    from airgap.resolve import resolve

    contents = resolve(options, plans, sources, progress)
    travelling = _travelling(options, contents)
    with progress.step("Looking into the cache"):
        missing = tuple(fetcher.missing(travelling))
        sizes = fetcher.sizes(travelling)
    facts = Facts({download.path: sizes[download.sha256] for download in travelling}, {})
    wheel = contents.collections
    collections = Cache(options.cache).path(wheel.sha256) if wheel not in missing else None
    manifest = describe(options, choice, contents, sources, facts, collections).manifest
    size = sum(file.size for file in manifest.files)
    return Result(choice, contents, manifest, missing, sizes, None, size, complete=collections is not None)
