"""The bundle's software bill of materials: ``sbom.cdx.json``, in CycloneDX 1.6.

It covers the packages of the complete state that a bundle describes, those too that a delta leaves out, and says who
uses them. The same bundle gives the same bytes: there is no time in it, and its serial number comes from its contents.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import is_supported_id
from packageurl import PackageURL

from airgap import __version__
from airgap.environment import Environment
from airgap.manifest import BUNDLE_DIRECTORY, Manifest, ManifestEnvironment, ManifestFile, ManifestTarget
from airgap.sources.interface import Download, GeneratedFile
from airgap.spdx import is_spdx
from airgap.verify import SBOM_NAME

_PACKAGES = ("conda", "wheel", "deb")
_OWN_CHANNEL = "pag"
_COLLECTION = "ansible/collections/"


def sbom_file(manifest: Manifest, environments: Sequence[Environment], downloads: Iterable[Download]) -> GeneratedFile:
    """Return the bill of materials of the bundle that *manifest*, still without this file, describes.

    *environments* are those that the manifest names; *downloads* tell where packages are from. Paths of files below
    the bundle's root are the components' references.
    """
    document = json.loads(JsonV1Dot6(_bom(manifest, environments, downloads)).output_as_string())
    # The library knows no way to leave these out.
    del document["metadata"]["timestamp"], document["serialNumber"]
    document["serialNumber"] = uuid5(NAMESPACE_URL, f"pag:{_compact(document)}").urn
    return GeneratedFile(SBOM_NAME, f"{_compact(document)}\n".encode(), "document")


def _compact(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def _bom(manifest: Manifest, environments: Sequence[Environment], downloads: Iterable[Download]) -> Bom:
    root = Component(
        type=ComponentType.APPLICATION,
        name=BUNDLE_DIRECTORY,
        version=manifest.bundle_version,
        bom_ref=BUNDLE_DIRECTORY,
        properties=_properties(interpreter=manifest.interpreter, base=manifest.base),
    )
    bom = Bom()
    bom.metadata.component = root
    bom.metadata.tools.components.add(Component(type=ComponentType.APPLICATION, name="pag", version=__version__))
    bom.metadata.properties.add(Property(name="cdx:reproducible", value="true"))

    carried = {file.path for file in manifest.files}
    origins = {download.path: download for download in downloads}
    records = {f"mirror/{file.path}": file.record for environment in environments for file in environment.conda}
    targets = {target.name: target for target in manifest.targets}
    packages = {
        file.path: _package(file, file.path in carried, origins.get(file.path), records.get(file.path), targets)
        for file in manifest.all_files
        if file.kind in _PACKAGES
    }
    uses: dict[str, list[Component]] = {target: [] for target in targets}
    for path, package in packages.items():
        if path.startswith("mirror/apt/"):
            uses.setdefault(path.split("/")[2], []).append(package)
    described = {(environment.name, environment.target): environment for environment in environments}
    users = [(_target(target), uses[target.name]) for target in manifest.targets]
    for entry in manifest.environments:
        files = described[entry.name, entry.target].files
        users.append((_environment(entry), [packages[f"mirror/{file.path}"] for file in files]))
    # Nobody of the bundle's uses what the operator added.
    dependencies = {package.bom_ref.value for _, used in users for package in used}
    others = [
        *(package for path, package in packages.items() if path not in dependencies),
        *_collections(manifest, carried),
    ]

    bom.components.update(packages.values(), others, (user for user, _ in users))
    bom.register_dependency(root, [*(user for user, _ in users), *others])
    for user, used in users:
        bom.register_dependency(user, used)
    return bom


def _package(
    file: ManifestFile,
    carried: bool,
    origin: Download | None,
    record: Mapping[str, Any] | None,
    targets: Mapping[str, ManifestTarget],
) -> Component:
    return Component(
        type=ComponentType.LIBRARY,
        name=file.name or "",
        version=file.version,
        bom_ref=file.path,
        purl=_package_url(file, origin, record, targets),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=file.sha256)],
        licenses=_licences(file),
        properties=_properties(carried=carried),
    )


def _package_url(
    file: ManifestFile,
    origin: Download | None,
    record: Mapping[str, Any] | None,
    targets: Mapping[str, ManifestTarget],
) -> PackageURL:
    """Return the package's address of https://github.com/package-url/purl-spec: its kind, name, version and variant."""
    file_name = file.path.rpartition("/")[2]
    if file.kind == "wheel":
        return PackageURL("pypi", None, file.name, file.version, {"file_name": file_name})
    if file.kind == "conda":
        qualifiers = {
            "build": (record or {}).get("build"),
            "channel": _OWN_CHANNEL if origin is None else origin.channel,
            "subdir": file.path.split("/")[2],
            "type": "conda" if file_name.endswith(".conda") else "tar.bz2",
        }
        return PackageURL("conda", None, file.name, file.version, _given(qualifiers))
    target = targets[file.path.split("/")[2]]
    distribution = target.release.partition("-")[0]
    # Security trackers go by source packages; "upstream" is what scanners read them from.
    source = ((origin and origin.record) or {}).get("Source", "").replace(" (", "@").rstrip(")")
    qualifiers = {
        "arch": file_name.removesuffix(".deb").rpartition("_")[2],
        "distro": target.release,
        "upstream": source or None,
    }
    return PackageURL("deb", distribution, file.name, file.version, _given(qualifiers))


def _given(qualifiers: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in qualifiers.items() if value}


def _licences(file: ManifestFile) -> list[DisjunctiveLicense | LicenseExpression]:
    if file.licence is None:
        return []
    if is_supported_id(file.licence):
        return [DisjunctiveLicense(id=file.licence)]
    if is_spdx(file.licence):
        return [LicenseExpression(file.licence)]
    return [DisjunctiveLicense(name=file.licence)]


def _target(target: ManifestTarget) -> Component:
    distribution, _, version = target.release.partition("-")
    return Component(
        type=ComponentType.OPERATING_SYSTEM,
        name=distribution,
        version=version,
        bom_ref=target.name,
        properties=_properties(architecture=target.architecture),
    )


def _environment(environment: ManifestEnvironment) -> Component:
    return Component(
        type=ComponentType.PLATFORM,
        name=environment.name,
        version=environment.digest[:12],
        bom_ref=environment.path,
        properties=_properties(
            digest=environment.digest,
            flow=environment.flow,
            interpreter=environment.interpreter,
            target=environment.target,
        ),
    )


def _collections(manifest: Manifest, carried: set[str]) -> Iterator[Component]:
    """Yield Ansible's collections: out of a wheel that itself does not travel, so there is no file to hash."""
    first: dict[str, ManifestFile] = {}
    for file in sorted(manifest.all_files, key=lambda file: file.path):
        if file.name is not None and file.path.startswith(_COLLECTION):
            first.setdefault(file.name, file)
    for name, file in first.items():
        yield Component(
            type=ComponentType.LIBRARY,
            name=name,
            version=file.version,
            bom_ref=f"{_COLLECTION}{name}",
            purl=PackageURL("generic", "ansible", name, file.version),
            licenses=_licences(file),
            properties=_properties(carried=file.path in carried),
        )


def _properties(**values: str | bool | None) -> list[Property]:
    return [
        Property(name=f"pag:{name}", value=str(value).lower() if isinstance(value, bool) else value)
        for name, value in values.items()
        if value is not None
    ]
