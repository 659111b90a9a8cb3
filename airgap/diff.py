"""What changes from one bundle to another: from their manifests alone, over the complete states that they describe."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from airgap.manifest import Manifest, ManifestEnvironment, ManifestFile
from airgap.verify import SBOM_NAME
from airgap.version_order import is_newer

FORMAT_VERSION = 1

What = Literal["enters", "leaves", "upgrade", "downgrade", "changed"]
"""``changed``: another content, and the version is the same or cannot be compared."""

_PACKAGES = {"conda": "conda", "wheel": "PyPI", "deb": "Debian"}
# Indexes, environments' descriptions and the bill of materials say again what is said of packages.
_OWN_FILES = ("ansible", "flow", "software", "document")

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class PackageChange:
    """A package that enters, leaves or changes."""

    kind: str
    """``conda``, ``PyPI``, ``Debian`` or ``Ansible``."""
    name: str
    place: str
    """The target of a Debian package, the platform of a conda package; empty for others."""
    what: What
    old_version: str | None
    new_version: str | None
    old_licence: str | None
    new_licence: str | None
    files: tuple[str, ...]
    """Names of the files that enter."""
    bytes: int
    """Of these, as far as they travel."""


@dataclass(frozen=True)
class FileChange:
    """A playbook, flow, program or document that enters, leaves or changes."""

    kind: str
    path: str
    what: What
    bytes: int


@dataclass(frozen=True)
class EnvironmentChange:
    """An environment that enters, leaves or changes."""

    name: str
    target: str
    what: What
    old_digest: str | None
    new_digest: str | None
    old_prefect: str | None
    new_prefect: str | None


@dataclass(frozen=True)
class Side:
    """One of the two bundles."""

    version: str
    manifest_sha256: str
    """As the bundle's SHA256SUMS names it."""
    base: str | None
    interpreter: str
    files: int
    """That travel, and their ``bytes``."""
    bytes: int


@dataclass(frozen=True)
class Difference:
    """All changes, each kind sorted by name."""

    old: Side
    new: Side
    targets_enter: tuple[str, ...]
    targets_leave: tuple[str, ...]
    environments: tuple[EnvironmentChange, ...]
    packages: tuple[PackageChange, ...]
    files: tuple[FileChange, ...]
    new_bytes: int
    """Of the files that travel and that the old bundle's state does not have."""

    def to_dict(self) -> dict[str, Any]:
        """Return the difference for JSON."""
        return {"format_version": FORMAT_VERSION} | asdict(self)


def compare(old_text: bytes, new_text: bytes) -> Difference:
    """Return what changes from the manifest *old_text* to *new_text*; raises ManifestError for what is no manifest."""
    old = Manifest.from_json(old_text.decode("utf-8", "replace"), "the old manifest")
    new = Manifest.from_json(new_text.decode("utf-8", "replace"), "the new manifest")
    travelling = frozenset(file.path for file in new.files)
    had = {file.sha256 for file in old.all_files}
    old_targets, new_targets = ({target.name for target in manifest.targets} for manifest in (old, new))
    return Difference(
        old=_side(old, old_text),
        new=_side(new, new_text),
        targets_enter=tuple(sorted(new_targets - old_targets)),
        targets_leave=tuple(sorted(old_targets - new_targets)),
        environments=tuple(_environment_changes(old, new)),
        packages=(*_package_changes(old, new, travelling), *_collection_changes(old, new, travelling)),
        files=tuple(_file_changes(old, new, travelling)),
        new_bytes=sum(file.size for file in new.files if file.sha256 not in had),
    )


def _side(manifest: Manifest, text: bytes) -> Side:
    return Side(
        version=manifest.bundle_version,
        manifest_sha256=hashlib.sha256(text).hexdigest(),
        base=manifest.base,
        interpreter=manifest.interpreter,
        files=len(manifest.files),
        bytes=sum(file.size for file in manifest.files),
    )


def _both(old: Mapping[Any, _Value], new: Mapping[Any, _Value]) -> Iterator[tuple[Any, _Value | None, _Value | None]]:
    """Yield each key of the two, sorted, with its values."""
    for key in sorted(old.keys() | new.keys()):
        yield key, old.get(key), new.get(key)


def _environment_changes(old: Manifest, new: Manifest) -> Iterator[EnvironmentChange]:
    def by_name(manifest: Manifest) -> dict[tuple[str, str], ManifestEnvironment]:
        return {(environment.name, environment.target): environment for environment in manifest.environments}

    for (name, target), before, after in _both(by_name(old), by_name(new)):
        if before is not None and after is not None and before.digest == after.digest:
            continue
        yield EnvironmentChange(
            name=name,
            target=target,
            what="enters" if before is None else "leaves" if after is None else "changed",
            old_digest=before.digest if before else None,
            new_digest=after.digest if after else None,
            old_prefect=before.prefect_version if before else None,
            new_prefect=after.prefect_version if after else None,
        )


def _package_changes(old: Manifest, new: Manifest, travelling: frozenset[str]) -> Iterator[PackageChange]:
    for (kind, name, place), before, after in _both(_packages(old), _packages(new)):
        yield from _changes_of(kind, name, place, before or [], after or [], travelling)


def _packages(manifest: Manifest) -> dict[tuple[str, str, str], list[ManifestFile]]:
    def key(file: ManifestFile) -> tuple[str, str, str] | None:
        if file.kind not in _PACKAGES or file.name is None:
            return None
        return file.kind, file.name, file.path.split("/")[2] if file.kind != "wheel" else ""

    return _grouped(manifest.all_files, key)


def _grouped(files: Iterable[ManifestFile], key: Callable[[ManifestFile], Any]) -> dict[Any, list[ManifestFile]]:
    groups: dict[Any, list[ManifestFile]] = {}
    for file in sorted(files, key=lambda file: file.path):
        if (found := key(file)) is not None:
            groups.setdefault(found, []).append(file)
    return groups


def _changes_of(
    kind: str,
    name: str,
    place: str,
    old: list[ManifestFile],
    new: list[ManifestFile],
    travelling: frozenset[str],
) -> Iterator[PackageChange]:
    """Yield the changes of one package, of which environments may have several versions and files each."""
    old_hashes, new_hashes = {file.sha256 for file in old}, {file.sha256 for file in new}
    # Files of each version that leave and that enter.
    left = _grouped((file for file in old if file.sha256 not in new_hashes), lambda file: file.version)
    entered = _grouped((file for file in new if file.sha256 not in old_hashes), lambda file: file.version)
    if len(left) == 1 and len(entered) == 1:
        pairs = [(next(iter(left)), next(iter(entered)))]
    else:
        same = sorted(left.keys() & entered.keys())
        pairs = [
            *((version, version) for version in same),
            *((version, None) for version in sorted(left.keys() - entered.keys())),
            *((None, version) for version in sorted(entered.keys() - left.keys())),
        ]
    for old_version, new_version in pairs:
        before = left[old_version] if old_version is not None else []
        after = entered[new_version] if new_version is not None else []
        yield PackageChange(
            kind=_PACKAGES[kind],
            name=name,
            place=place,
            what=_what(kind, old_version, new_version),
            old_version=old_version,
            new_version=new_version,
            old_licence=before[0].licence if before else None,
            new_licence=after[0].licence if after else None,
            files=tuple(file.path.rpartition("/")[2] for file in after),
            bytes=_travelling_bytes(after, travelling),
        )


def _what(kind: str, old_version: str | None, new_version: str | None) -> What:
    if old_version is None:
        return "enters"
    if new_version is None:
        return "leaves"
    newer = is_newer(kind, old_version, new_version)
    return "changed" if newer is None else "upgrade" if newer else "downgrade"


def _collection_changes(old: Manifest, new: Manifest, travelling: frozenset[str]) -> Iterator[PackageChange]:
    """Yield the changes of Ansible's collections, each of which is many files."""
    for name, before, after in _both(_collections(old), _collections(new)):
        if before is not None and after is not None and _contents(before) == _contents(after):
            continue
        old_version = before[0].version if before else None
        new_version = after[0].version if after else None
        yield PackageChange(
            kind="Ansible",
            name=name,
            place="",
            what=_what("collection", old_version, new_version),
            old_version=old_version,
            new_version=new_version,
            old_licence=before[0].licence if before else None,
            new_licence=after[0].licence if after else None,
            files=(),
            bytes=_travelling_bytes(after or [], travelling),
        )


def _collections(manifest: Manifest) -> dict[str, list[ManifestFile]]:
    return _grouped(manifest.all_files, lambda file: file.name if file.kind == "ansible" else None)


def _file_changes(old: Manifest, new: Manifest, travelling: frozenset[str]) -> Iterator[FileChange]:
    def own(manifest: Manifest) -> dict[tuple[str, str], ManifestFile]:
        return {
            (file.kind, file.path): file
            for file in manifest.all_files
            if file.kind in _OWN_FILES and file.name is None and file.path != SBOM_NAME
        }

    for (kind, path), before, after in _both(own(old), own(new)):
        if before is None or after is None or before.sha256 != after.sha256:
            what: What = "enters" if before is None else "leaves" if after is None else "changed"
            yield FileChange(kind, path, what, _travelling_bytes([after] if after else [], travelling))


def _contents(files: Iterable[ManifestFile]) -> set[tuple[str, str]]:
    return {(file.path, file.sha256) for file in files}


def _travelling_bytes(files: Iterable[ManifestFile], travelling: frozenset[str]) -> int:
    return sum(file.size for file in files if file.path in travelling)
