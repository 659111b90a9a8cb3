"""The directory that a bundle is unpacked in, which the operator works in: kept whole, and clean of older bundles.

Standard library only.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from airgap.durable import UNFINISHED, has_content, remove
from airgap.errors import InstallationError, VerificationError
from airgap.hashing import sha256_of_file
from airgap.manifest import CHECKSUMS_NAME, MANIFEST_NAME, Manifest
from airgap.signature import SIGNATURE_NAME
from airgap.site import Site, is_package, read_manifest
from airgap.verify import LISTS


def complete(bundle: Path, manifest: Manifest, site: Site) -> int:
    """Copy what a delta relies on, packages aside, from *site* into the unpacked *bundle*; return how many files."""
    changed = 0
    for file in manifest.relies_on:
        path = bundle / file.path
        if is_package(file) or has_content(path, file.sha256):
            continue
        _make_directories(path.parent, bundle)
        temporary = path.with_name(f".{path.name}{UNFINISHED}")
        shutil.copyfile(site.stored(file.sha256), temporary)
        temporary.chmod(0o755 if file.executable else 0o644)
        _give_to_owner_of(bundle, temporary)
        temporary.replace(path)
        changed += 1
    return changed


def known_files(bundle: Path, site: Site) -> dict[str, set[str]]:
    """Return what may lie in the unpacked *bundle* because older bundles, whose lists *site* keeps, brought it.

    SHA-256 by path. Raises VerificationError when *bundle* is none.
    """
    digest = digest_of(bundle)
    known: dict[str, set[str]] = {}
    for older in site.kept():
        if not digest.startswith(older.digest):
            for path, sha256 in (files_of(older.manifest) | _signature(older.path)).items():
                known.setdefault(path, set()).add(sha256)
    return known


def prepare(bundle: Path, site: Site) -> None:
    """Remove from *bundle*, before it is verified, what would have it refused and is of no use.

    These are unfinished files of an interrupted run, and an older bundle's signature, which would be taken for that of
    a new one that has none.
    """
    for path in bundle.rglob(f".*{UNFINISHED}"):
        path.unlink()
    path = bundle / SIGNATURE_NAME
    if path.is_file() and sha256_of_file(path) in known_files(bundle, site).get(SIGNATURE_NAME, ()):
        path.unlink()


def clean(bundle: Path, site: Site) -> int:
    """Remove from the verified *bundle* what older bundles left there, and return how many files that were.

    Compiled code that Ansible left is removed as well: nobody can tell whether it is what it says.
    """
    wanted = files_of(read_manifest(bundle))
    removed = 0
    for path, sums in sorted(known_files(bundle, site).items()):
        file = bundle / path
        if _is_plain(file) and (found := sha256_of_file(file)) in sums and found != wanted.get(path):
            remove(file, bundle)
            removed += 1
    _remove_compiled(bundle)
    return removed


def _remove_compiled(bundle: Path) -> None:
    for file in sorted(bundle.glob("ansible/**/__pycache__/*.pyc")):
        remove(file, bundle)


def move_over(bundle: Path, destination: Path) -> None:
    """Move the unpacked *bundle* to *destination*, over an older one, where the operator's own files stay.

    Only what the bundle's manifest lists is moved, and its lists. What the older one lists and the new one does not is
    removed. The manifest comes last, so that a run that was interrupted can be repeated. Raises InstallationError when
    *destination* is something else.
    """
    if destination.exists() and not (destination / MANIFEST_NAME).is_file():
        raise InstallationError(f"{destination} is there and is no unpacked bundle: move it away.")
    new = {file.path for file in read_manifest(bundle).files}
    _remove_others(bundle, {*new, *LISTS})
    if destination.exists():
        old = files_of(read_manifest(destination)) | _signature(destination)
        for name, sha256 in old.items():
            file = destination / name
            if name not in new and _is_plain(file) and sha256_of_file(file) == sha256:
                remove(file, destination)
        # Without the modules that it was compiled from, nobody could tell whose it is.
        _remove_compiled(destination)
    else:
        bundle.rename(destination)
        return
    paths = sorted(path for path in bundle.rglob("*") if path.is_file())
    for path in sorted(paths, key=lambda path: path == bundle / MANIFEST_NAME):
        target = destination / path.relative_to(bundle)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    shutil.rmtree(bundle)


def _remove_others(bundle: Path, listed: set[str]) -> None:
    for path in list(bundle.rglob("*")):
        if (path.is_symlink() or not path.is_dir()) and path.relative_to(bundle).as_posix() not in listed:
            path.unlink()


def files_of(manifest: Manifest) -> dict[str, str]:
    """Return SHA-256 by path of the state that *manifest* describes."""
    return {file.path: file.sha256 for file in manifest.all_files}


def digest_of(bundle: Path) -> str:
    """Return the digest of the unpacked *bundle*; raises VerificationError when it is none."""
    try:
        return sha256_of_file(bundle / CHECKSUMS_NAME)
    except OSError as error:
        raise VerificationError(
            f"{bundle} has no {CHECKSUMS_NAME} that can be read ({error.strerror}): it is no whole bundle."
        ) from error


def _signature(directory: Path) -> dict[str, str]:
    path = directory / SIGNATURE_NAME
    return {SIGNATURE_NAME: sha256_of_file(path)} if path.is_file() else {}


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _make_directories(directory: Path, bundle: Path) -> None:
    if not directory.is_dir():
        _make_directories(directory.parent, bundle)
        directory.mkdir()
        directory.chmod(0o755)
        _give_to_owner_of(bundle, directory)


def _give_to_owner_of(bundle: Path, path: Path) -> None:
    if os.geteuid() == 0:
        owner = bundle.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
