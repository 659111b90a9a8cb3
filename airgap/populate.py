"""Brings a verified bundle below ``/opt/pag``, beside what earlier bundles brought. Standard library only."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from airgap.durable import flush, make_directories, place, remove, write
from airgap.errors import InstallationError
from airgap.manifest import CHECKSUMS_NAME, MANIFEST_NAME, Manifest, ManifestFile
from airgap.mirror_index import refresh
from airgap.signature import SIGNATURE_NAME
from airgap.site import KEPT_BUNDLES, Site, is_package, read_manifest
from airgap.unpacked import clean, complete, digest_of
from airgap.verify import SBOM_NAME

# What the nodes and the playbooks take from the installed bundle by its name.
_SOFTWARE = "airgap/"
_NAMED = (_SOFTWARE, "environments/")
_MIRROR = "mirror/"
# Beside manifest.json, what is kept of a bundle to tell it by; the last two are not in every bundle.
_LISTS = (CHECKSUMS_NAME, SIGNATURE_NAME, SBOM_NAME)


@dataclass(frozen=True)
class Contents:
    """The files of other unpacked bundles, verified, that a delta may rely on."""

    paths: Mapping[str, Path]
    """By SHA-256."""

    @classmethod
    def of(cls, bundles: Iterable[Path]) -> Contents:
        """Return the contents of *bundles*; raises ManifestError for a directory that is none."""
        return cls({file.sha256: bundle / file.path for bundle in bundles for file in read_manifest(bundle).files})


def check_reliance(manifest: Manifest, site: Site, contents: Contents) -> None:
    """Raise InstallationError, listing paths and sizes, when files that a delta relies on are nowhere to be had."""
    missing = [file for file in site.lacking(manifest.relies_on) if file.sha256 not in contents.paths]
    if missing:
        size = sum(file.size for file in missing)
        lines = "".join(f"\n  {file.size:>12}  {file.path}" for file in sorted(missing, key=lambda file: file.path))
        raise InstallationError(
            f"This bundle relies on {len(missing)} files ({size} bytes) that are neither in it nor on this controller: "
            "install the bundle that has them first, or unpack that one and name it with --with, or build this one "
            f"again with this controller's have.json.{lines}"
        )


def check_conflicts(manifest: Manifest, site: Site) -> None:
    """Raise InstallationError when a package has the name of another one that something on the site needs."""
    packages = {file.path: file for file in manifest.all_files if is_package(file)}
    for used in chain(site.bundle_environments(), site.flow_environments()):
        for package in used.environment.files:
            new = packages.get(f"{_MIRROR}{package.path}")
            if new is not None and new.sha256 != package.sha256:
                raise InstallationError(
                    f"{new.path} is one file in this bundle (SHA-256 {new.sha256}) and another one in {used.user} "
                    f"(SHA-256 {package.sha256}): give the package that was rebuilt a version or build number of its "
                    "own, and build the bundle again."
                )


def check_room(bundle: Path, manifest: Manifest, site: Site, contents: Contents, more: int) -> None:
    """Raise InstallationError unless there is room for what :func:`populate` writes, and *more* bytes."""
    existing = next(parent for parent in (site.root, *site.root.parents) if parent.exists())
    device = existing.stat().st_dev
    sources = {file.path: bundle / file.path for file in manifest.files}
    needed = more
    for file in manifest.all_files:
        source = sources.get(file.path, contents.paths.get(file.sha256))
        if source is None or not source.exists() or site.place_of(file).exists():
            continue
        # Packages are linked where that is possible, and then need none.
        if not is_package(file) or source.stat().st_dev != device:
            needed += file.size
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InstallationError(
            f"{existing} has {free // 1_000_000} MB free and {needed // 1_000_000} MB are needed: make room there."
        )


def populate(bundle: Path, site: Site, contents: Contents) -> int:
    """Bring the files of the unpacked *bundle* to *site*, and to *bundle* what it lacks to be used.

    Returns how many files were new or different. Packages are linked where the file system allows it, all else is
    copied: an operator may edit what was unpacked. Interrupted, it goes on where it was.
    """
    manifest = read_manifest(bundle)
    travelled = {file.path for file in manifest.files}
    changed = clean(bundle, site)
    for file in manifest.all_files:
        source = bundle / file.path if file.path in travelled else contents.paths.get(file.sha256)
        changed += _keep(file, source, site)
    changed += complete(bundle, manifest, site)
    changed += refresh(site.mirror, _indexes(manifest, site))
    for file in manifest.all_files:
        if file.path.startswith(_NAMED):
            changed += place(site.stored(file.sha256), site.root / file.path, file.sha256, link=True)
    changed += _remove_other_modules(manifest, site)
    return changed


def finish(bundle: Path, site: Site, keep: int = KEPT_BUNDLES) -> int:
    """Record the bundle as the installed one, keep the lists of the last *keep* bundles; return how many files changed.

    The manifest is written last, when everything else is on the disk.
    """
    changed = _record(bundle, site)
    for directory in (site.mirror, site.root):
        flush(directory)
    changed += write(site.root / MANIFEST_NAME, (bundle / MANIFEST_NAME).read_bytes())
    flush(site.root)
    for old in site.kept()[: -max(1, keep)]:
        shutil.rmtree(old.path)
        changed += 1
    return changed


def _keep(file: ManifestFile, source: Path | None, site: Site) -> int:
    destination = site.place_of(file)
    if source is not None and source.is_file():
        return int(place(source, destination, file.sha256, link=is_package(file)))
    if site.lacking([file]):
        raise InstallationError(f"{file.path} is gone since it was checked: run this again.")
    return 0


def _indexes(manifest: Manifest, site: Site) -> dict[str, Path]:
    return {
        file.path.removeprefix(_MIRROR): site.stored(file.sha256)
        for file in manifest.all_files
        if file.path.startswith(_MIRROR) and not is_package(file)
    }


def _remove_other_modules(manifest: Manifest, site: Site) -> int:
    # Packages of earlier bundles may stay, but not modules: together they would be a software that never was.
    listed = {file.path for file in manifest.all_files}
    software = (site.root / _SOFTWARE).rglob("*.py")
    others = [path for path in sorted(software) if path.relative_to(site.root).as_posix() not in listed]
    for path in others:
        remove(path, site.root)
    return len(others)


def _record(bundle: Path, site: Site) -> int:
    """Keep the bundle's lists under the highest number."""
    make_directories(site.bundles)
    for leftover in site.bundles.glob(".*"):
        shutil.rmtree(leftover)
    kept = site.kept()
    digest = digest_of(bundle)[:12]
    known = next((old for old in kept if old.digest == digest), None)
    if known is not None and known is kept[-1]:
        return 0
    number = kept[-1].number + 1 if kept else 1
    directory = site.bundles / f"{number:04}-{digest}"
    if known is not None:  # an older bundle comes back
        known.path.rename(directory)
        return 1
    unfinished = site.bundles / f".{directory.name}"
    for name in (MANIFEST_NAME, *_LISTS):
        if (bundle / name).is_file():
            write(unfinished / name, (bundle / name).read_bytes())
    unfinished.rename(directory)
    return 1
