"""Assembles a bundle out of what was fetched: indexes, environments' descriptions, the manifest, SHA256SUMS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from airgap import __version__
from airgap.archive import Entry
from airgap.delta import Base, split
from airgap.environment import Environment
from airgap.errors import ResolutionError
from airgap.hashing import sha256_of_bytes
from airgap.manifest import (
    CHECKSUMS_NAME,
    MANIFEST_NAME,
    PACKAGE_KINDS,
    Manifest,
    ManifestEnvironment,
    ManifestFile,
    ManifestTarget,
)
from airgap.plan import BuildOptions, Choice
from airgap.resolve import Contents, Sources
from airgap.sbom import sbom_file
from airgap.signature import BUNDLE_NAMESPACE, SIGNATURE_NAME, sign
from airgap.sources.ansible_collections import extract_collections
from airgap.sources.files import checkout_files, flow_files
from airgap.sources.interface import Download, GeneratedFile
from airgap.spdx import in_spdx


@dataclass(frozen=True)
class Facts:
    """What is known of packages, by their paths below the bundle's root."""

    sizes: Mapping[str, int]
    """Bytes."""
    licences: Mapping[str, str | None]

    def with_base(self, packages: Iterable[Download], base: Base | None) -> Facts:
        """Return these facts and those of the *packages* that the site of *base* has, as its have.json tells them.

        Nothing that this machine may happen to know of them: the same have.json gives the same bundle everywhere.
        """
        sizes, licences = dict(self.sizes), dict(self.licences)
        for package in packages:
            if base is not None and (present := base.package(package.path, package.sha256)) is not None:
                stated = present.licence or package.licence
                sizes[package.path], licences[package.path] = present.size, in_spdx(stated) if stated else None
        return Facts(sizes, licences)


@dataclass(frozen=True)
class State:
    """What a bundle describes, and the content of those files that the builder makes itself."""

    manifest: Manifest
    generated: Mapping[str, bytes]


def assemble(state: State, fetched: Mapping[str, Path]) -> tuple[list[Entry], str]:
    """Return the archive's entries, the lists included, and the SHA-256 of SHA256SUMS; *fetched* are the packages."""
    return with_lists(state.manifest, {**fetched, **state.generated})


def describe(
    options: BuildOptions,
    choice: Choice,
    contents: Contents,
    sources: Sources,
    facts: Facts,
    collections: Path | None,
) -> State:
    """Return what the bundle of *contents* describes: everything but its lists.

    *collections* is the wheel with Ansible's collections; None leaves them out, where it is not there yet. Raises
    ResolutionError when two files would have the same path.
    """
    packages = contents.packages
    facts = facts.with_base(packages, options.base)
    generated = [
        *(file for file, _ in contents.generated_packages.values()),
        *_indexes(contents, packages, sources),
        *checkout_files(options.root),
        *(file for flow in options.flows for file in flow_files(flow)),
        *(extract_collections(collections) if collections is not None else ()),
    ]
    environments: list[ManifestEnvironment] = []
    descriptions: list[Environment] = []
    for resolved in contents.environments:
        environment = resolved.describe(facts.sizes)
        descriptions.append(environment)
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
    travels, relied_on = split(
        [
            *(_listed_package(download, facts) for download in packages),
            *(_listed_file(file) for file in generated),
        ],
        options.base,
        {file.path: file.content for file in generated},
    )
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
        files=tuple(travels),
        base=options.base.digest if options.base is not None else None,
        relies_on=tuple(relied_on),
    )
    sbom = sbom_file(manifest, descriptions, packages)
    manifest = replace(manifest, files=(*manifest.files, _listed_file(sbom)))
    _check_paths(manifest)
    return State(manifest, {file.path: file.content for file in (*generated, sbom)})


def with_lists(manifest: Manifest, contents: Mapping[str, bytes | Path]) -> tuple[list[Entry], str]:
    """Return the entries of *manifest*'s files with manifest.json and SHA256SUMS, and the SHA-256 of the latter."""
    entries = [
        Entry(
            file.path, file.sha256, file.size, contents[file.path], file.executable, package=file.kind in PACKAGE_KINDS
        )
        for file in manifest.files
    ]
    entries.append(_entry(MANIFEST_NAME, manifest.to_json().encode()))
    lines = sorted(f"{entry.path}\0{entry.sha256}" for entry in entries)
    sums = "".join(f"{sha256}  {path}\n" for path, _, sha256 in (line.partition("\0") for line in lines))
    checksums = _entry(CHECKSUMS_NAME, sums.encode())
    return [*entries, checksums], checksums.sha256


def _check_paths(manifest: Manifest) -> None:
    paths = Counter(file.path for file in manifest.all_files)
    for path, count in paths.items():
        if count > 1:
            raise ResolutionError(f"Two files of the bundle would be {path}: rename the one in your flow directory.")


def with_signature(entries: Sequence[Entry], key: Path) -> list[Entry]:
    """Return *entries* with the signature of their SHA256SUMS by *key*; raise SignatureError when it cannot sign."""
    (checksums,) = (entry.content for entry in entries if entry.path == CHECKSUMS_NAME)
    assert isinstance(checksums, bytes)  # noqa: S101  with_lists made it
    return [*entries, _entry(SIGNATURE_NAME, sign(checksums, key, BUNDLE_NAMESPACE))]


def _indexes(contents: Contents, packages: Sequence[Download], sources: Sources) -> Iterable[GeneratedFile]:
    made = [
        Download(
            "", file.path, package.sha256, package.size, "conda", package.name, package.version, None, package.record
        )
        for file, package in contents.generated_packages.values()
    ]
    yield from sources.conda.index([*(download for download in packages if download.kind == "conda"), *made])
    yield from sources.wheels.index([download for download in packages if download.kind == "wheel"])
    yield from sources.apt.index([download for download in packages if download.kind == "deb"])


def _listed_package(download: Download, facts: Facts) -> ManifestFile:
    return ManifestFile(
        path=download.path,
        sha256=download.sha256,
        size=facts.sizes[download.path],
        kind=download.kind,
        name=download.name,
        version=download.version,
        licence=facts.licences.get(download.path),
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
