"""Builds a bundle: plan, resolve, fetch, describe, write."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from airgap import __version__
from airgap.archive import Entry, write_archive
from airgap.cache import Cache
from airgap.errors import AirgapError, ResolutionError
from airgap.fetch import Fetcher
from airgap.hashing import sha256_of_bytes
from airgap.manifest import (
    CHECKSUMS_NAME,
    MANIFEST_NAME,
    Manifest,
    ManifestEnvironment,
    ManifestFile,
    ManifestTarget,
)
from airgap.network import Network
from airgap.plan import LOCK_NAME, BuildOptions, Choice, choose_interpreter, plan_environments
from airgap.progress import Progress, human_size
from airgap.resolve import Contents, Sources, check_prefect_versions, resolve
from airgap.sources.ansible_collections import extract_collections
from airgap.sources.files import checkout_files, flow_files
from airgap.sources.interface import Download, GeneratedFile
from airgap.sources.wheels import wheel_licence


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
        entries, digest = _assemble(options, choice, contents, sources, cache, fetched)
        write_archive(options.output, entries)
    return Result(choice, contents, missing, sizes, options.output, options.output.stat().st_size, digest)


def _assemble(
    options: BuildOptions,
    choice: Choice,
    contents: Contents,
    sources: Sources,
    cache: Cache,
    fetched: Mapping[str, Path],
) -> tuple[list[Entry], str]:
    """Return the archive's entries, the lists included, and the SHA-256 of SHA256SUMS."""
    packages = contents.packages
    generated = [
        *(file for file, _ in contents.generated_packages.values()),
        *_indexes(contents, packages, sources, cache, fetched),
        *checkout_files(options.root),
        *(file for flow in options.flows for file in flow_files(flow)),
        *extract_collections(fetched[contents.collections.path]),
    ]
    environments: list[ManifestEnvironment] = []
    for resolved in contents.environments:
        environment = resolved.describe(fetched)
        path = f"environments/{environment.name}.{environment.target}.json"
        generated.append(GeneratedFile(path, environment.to_json().encode(), "environment", name=environment.name))
        environments.append(
            ManifestEnvironment(
                name=environment.name,
                target=environment.target,
                interpreter=environment.interpreter,
                digest=environment.digest,
                path=path,
                flow=f"flows/{resolved.plan.flow.name}" if resolved.plan.flow else None,
                prefect_version=environment.version_of("prefect"),
            )
        )
    files = [
        *(_listed_package(download, fetched[download.path]) for download in packages),
        *(_listed_file(file) for file in generated),
    ]
    manifest = Manifest(
        bundle_version=options.version or __version__,
        created_by=f"pag {__version__}",
        interpreter=choice.interpreter,
        interpreter_reason=choice.reason,
        targets=tuple(
            ManifestTarget(
                target.name, target.release.name, target.release.codename, target.architecture, target.release.python
            )
            for target in options.targets
        ),
        environments=tuple(sorted(environments, key=lambda environment: environment.path)),
        files=tuple(files),
    )
    contents_of: dict[str, bytes | Path] = {file.path: file.content for file in generated}
    contents_of |= {download.path: fetched[download.path] for download in packages}
    return with_lists(manifest, contents_of)


def with_lists(manifest: Manifest, contents: Mapping[str, bytes | Path]) -> tuple[list[Entry], str]:
    """Return the entries of *manifest*'s files with manifest.json and SHA256SUMS, and the SHA-256 of the latter."""
    if len({file.path for file in manifest.files}) != len(manifest.files):
        paths = [file.path for file in manifest.files]
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ResolutionError(f"Two files of the bundle would be {twice}: rename the one in your flow directory.")
    entries = [
        Entry(file.path, file.sha256, file.size, contents[file.path], file.executable) for file in manifest.files
    ]
    entries.append(_entry(MANIFEST_NAME, manifest.to_json().encode()))
    lines = sorted(f"{entry.path}\0{entry.sha256}" for entry in entries)
    sums = "".join(f"{sha256}  {path}\n" for path, _, sha256 in (line.partition("\0") for line in lines))
    checksums = _entry(CHECKSUMS_NAME, sums.encode())
    return [*entries, checksums], checksums.sha256


def _indexes(
    contents: Contents, packages: Sequence[Download], sources: Sources, cache: Cache, fetched: Mapping[str, Path]
) -> Iterable[GeneratedFile]:
    made = dict(fetched)
    conda = [download for download in packages if download.kind == "conda"]
    for file, package in contents.generated_packages.values():
        made[file.path] = cache.store(file.content)
        conda.append(
            Download(
                "",
                file.path,
                package.sha256,
                package.size,
                "conda",
                package.name,
                package.version,
                None,
                package.record,
            )
        )
    yield from sources.conda.index(conda, made)
    yield from sources.wheels.index([download for download in packages if download.kind == "wheel"], made)
    yield from sources.apt.index([download for download in packages if download.kind == "deb"], made)


def _listed_package(download: Download, path: Path) -> ManifestFile:
    licence = download.licence
    if licence is None and download.kind == "wheel":
        licence = wheel_licence(path)
    return ManifestFile(
        path=download.path,
        sha256=download.sha256,
        size=path.stat().st_size,
        kind=download.kind,
        name=download.name,
        version=download.version,
        licence=licence,
    )


def _listed_file(file: GeneratedFile) -> ManifestFile:
    return ManifestFile(
        path=file.path,
        sha256=sha256_of_bytes(file.content),
        size=len(file.content),
        kind=file.kind,
        name=file.name,
        version=file.version,
        licence=file.licence,
        executable=file.executable,
    )


def _entry(path: str, content: bytes) -> Entry:
    return Entry(path, sha256_of_bytes(content), len(content), content)


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
