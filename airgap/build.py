"""Builds a bundle: plan, resolve, fetch, describe, write."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from airgap.archive import Entry, archive_blocks, write_archive
from airgap.assemble import Facts, assemble, describe, with_signature
from airgap.cache import Cache
from airgap.delta import Base, node_statuses
from airgap.errors import AirgapError, VerificationError
from airgap.fetch import Fetcher
from airgap.licences import read_ahead, read_licences
from airgap.manifest import Manifest
from airgap.network import Network
from airgap.output import left_behind
from airgap.plan import LOCK_NAME, BuildOptions, Choice, EnvironmentPlan, choose_interpreter, plan_environments
from airgap.progress import Progress, human_size
from airgap.resolve import Contents, Sources, check_prefect_versions, resolve
from airgap.signature import check_key
from airgap.sources.files import INSTALLER_NAME
from airgap.sources.interface import Download
from airgap.volumes import write_volumes


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
) -> Result:
    """Build the bundle that *options* ask for and return what was made.

    *announce* is told the choice of Python before anything is fetched. Raises AirgapError; the output is
    then as it was before.
    """
    if options.sign_key is not None:
        check_key(options.sign_key)
    if options.system_updates:
        for target in options.targets:
            node_statuses(options.base, target.name)
    sources = sources or Sources.of(options, network)
    locks = [options.root / LOCK_NAME, *(flow / LOCK_NAME for flow in options.flows)]
    choice = choose_interpreter(options.python, locks, sources.conda)
    announce(choice)
    plans = plan_environments(options.root, options.flows, choice.interpreter)
    cache = Cache(options.cache)
    fetcher = Fetcher(cache, network, progress)
    check_prefect_versions(plans, options.targets, sources)
    if options.dry_run:
        return _dry_run(options, choice, plans, sources, fetcher, progress)
    with _reading_licences(cache) as arrived, fetcher.start(arrived) as fetching:

        def found(downloads: Iterable[Download]) -> None:
            fetching.add(download for download in downloads if not _is_there(download, options.base))

        contents = resolve(options, plans, sources, progress, found)
        travelling = _travelling(options, contents)
        packages = [download for download in travelling if download is not contents.collections]
        _check_room(options, packages, fetcher.known_sizes(travelling), cache)
        with progress.step(f"Fetching {len(travelling)} files, of those that the cache lacks"):
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
            output, volumes, size = _write(options, entries)
        result = Result(choice, contents, state.manifest, tuple(missing), sizes, output, size, digest)
        return replace(result, volumes=volumes)

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


@contextmanager
def _reading_licences(cache: Cache) -> Iterator[Callable[[Download], None]]:
    """Yield what to tell of packages that have arrived: their licences are read while others arrive."""
    pool = ThreadPoolExecutor(os.cpu_count())

    def arrived(package: Download) -> None:
        pool.submit(read_ahead, package, cache)

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


def _write(options: BuildOptions, entries: Sequence[Entry]) -> tuple[Path, int, int]:
    """Write the bundle; return where it is, in how many volumes, and its bytes."""
    if options.sign_key is not None:
        entries = with_signature(entries, options.sign_key)
    if options.split_size is None:
        return options.output, 0, write_archive(options.output, entries)
    (installer,) = (entry.content for entry in entries if entry.path == INSTALLER_NAME)
    assert isinstance(installer, bytes)  # noqa: S101  a file of the checkout
    written = write_volumes(
        options.output, archive_blocks(entries), options.split_size, companion=(INSTALLER_NAME, installer)
    )
    return written.index, written.volumes, written.size


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


def _check_room(options: BuildOptions, packages: Sequence[Download], sizes: Mapping[str, int], cache: Cache) -> None:
    needs = {
        options.cache: sum(size for sha256, size in sizes.items() if not cache.path(sha256).exists()),
        # What an earlier build left there when it was killed, this one writes over.
        options.output.parent: sum(sizes[download.sha256] for download in packages) - left_behind(options.output),
    }
    existing = {
        directory: next(path for path in (directory, *directory.resolve().parents) if path.exists())
        for directory in needs
    }
    devices = {path.stat().st_dev for path in existing.values()}
    for device in devices:
        directories = [directory for directory, path in existing.items() if path.stat().st_dev == device]
        size = sum(needs[directory] for directory in directories)
        free = shutil.disk_usage(existing[directories[0]]).free
        if free < size:
            raise AirgapError(
                f"{' and '.join(map(str, directories))}: {human_size(free)} are free there and {human_size(size)} are "
                "needed: make room, or name other places with --cache and --output."
            )
