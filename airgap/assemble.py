"""Assembles a bundle out of what was fetched: indexes, environments' descriptions, the manifest, SHA256SUMS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from airgap import __version__
from airgap.archive import Entry
from airgap.cache import Cache
from airgap.errors import ResolutionError
from airgap.hashing import sha256_of_bytes
from airgap.manifest import (
    CHECKSUMS_NAME,
    MANIFEST_NAME,
    Manifest,
    ManifestEnvironment,
    ManifestFile,
    ManifestTarget,
)
from airgap.plan import BuildOptions, Choice
from airgap.resolve import Contents, Sources
from airgap.sources.ansible_collections import extract_collections
from airgap.sources.files import checkout_files, flow_files
from airgap.sources.interface import Download, GeneratedFile
from airgap.sources.wheels import wheel_licence


def assemble(
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
