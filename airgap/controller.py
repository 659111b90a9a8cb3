"""Bring a verified bundle's packages to where the playbooks expect them: ``/opt/pag`` on the controller.

Called by ``install-pag-controller.sh``, which verifies the bundle before. Standard library only.

    python3 -m airgap.controller check BUNDLE ROOT       refuse a host that cannot be the controller; print its target
    python3 -m airgap.controller populate BUNDLE ROOT    link or copy what nodes need; print how many files changed
    python3 -m airgap.controller finish BUNDLE ROOT      record the bundle as the installed one; print the same
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from airgap.errors import AirgapError, InstallationError
from airgap.hashing import sha256_of_file
from airgap.manifest import MANIFEST_NAME, Manifest
from airgap.targets import host_target

# What of the bundle the nodes need; the rest is used where it was unpacked.
_SOFTWARE = "airgap/"
_CARRIED = ("mirror/", "environments/", _SOFTWARE)
# The controller's own environment and the toolkit, unpacked; measured at a good 400 MB.
_ENVIRONMENTS_BYTES = 600_000_000
_MINIMUM_PYTHON = (3, 10)


def check(bundle: Path, root: Path) -> str:
    """Return the name of the target that this host is.

    Raises AirgapError when the bundle was not built for it, its Python is not the distribution's, or *root*'s file
    system is too full.
    """
    manifest = Manifest.from_file(bundle / MANIFEST_NAME)
    names = [target.name for target in manifest.targets]
    target = host_target(platform.machine())
    if target.name not in names:
        raise InstallationError(
            f"This bundle was built for {', '.join(names)}, and this host is {target.name}: "
            "build it with --target for the controller's system as well."
        )
    python = ".".join(platform.python_version_tuple()[:2])
    if sys.version_info < _MINIMUM_PYTHON or python != target.release.python:
        raise InstallationError(
            f"/usr/bin/python3 is version {python} instead of {target.release.name}'s own {target.release.python}: "
            "restore the distribution's package python3."
        )
    existing = next(parent for parent in (root, *root.parents) if parent.exists())
    needed = _ENVIRONMENTS_BYTES
    if existing.stat().st_dev != bundle.stat().st_dev:
        needed += sum(file.size for file in manifest.files if file.path.startswith(_CARRIED))
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InstallationError(
            f"{existing} has {free // 1_000_000} MB free and {needed // 1_000_000} MB are needed: make room there."
        )
    return target.name


def populate(bundle: Path, root: Path) -> int:
    """Bring the bundle's mirror, environments and Python package below *root*, beside what earlier bundles brought.

    Returns how many files were new or different. Files are linked where the file system allows it; they then belong
    to root, and to nobody else who could change them later. Interrupted, it goes on where it was.
    """
    changed = 0
    files = Manifest.from_file(bundle / MANIFEST_NAME).files
    names = {file.path for file in files}
    for file in files:
        if file.path.startswith(_CARRIED):
            changed += _bring(bundle / file.path, root / file.path, file.sha256)
    # Packages of earlier bundles may stay, but not modules: together they would be a software that never was.
    for path in sorted((root / _SOFTWARE).rglob("*.py")):
        if path.relative_to(root).as_posix() not in names:
            path.unlink()
            changed += 1
    return changed


def finish(bundle: Path, root: Path) -> int:
    """Record the bundle as the one that is installed below *root*; return how many files changed."""
    manifest = bundle / MANIFEST_NAME
    return int(_bring(manifest, root / MANIFEST_NAME, sha256_of_file(manifest)))


def _bring(source: Path, destination: Path, sha256: str) -> bool:
    if destination.is_file() and (source.samefile(destination) or sha256_of_file(destination) == sha256):
        _make_roots(destination)
        return False
    _make_directories(destination.parent)
    temporary = destination.with_name(f".{destination.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, temporary)
    _make_roots(temporary)
    # Between verifying and now, the file was the operator's.
    if sha256_of_file(temporary) != sha256:
        temporary.unlink()
        raise InstallationError(f"{source} was changed while it was installed: unpack the bundle and run this again.")
    temporary.replace(destination)
    return True


def _make_roots(path: Path) -> None:
    status = path.stat()
    if os.geteuid() == 0 and (status.st_uid, status.st_gid) != (0, 0):
        os.chown(path, 0, 0)
    if status.st_mode & 0o7777 != 0o644:
        path.chmod(0o644)


def _make_directories(directory: Path) -> None:
    """Create *directory* and its parents, readable for all whatever the umask is."""
    if not directory.is_dir():
        _make_directories(directory.parent)
        directory.mkdir()
        directory.chmod(0o755)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands; return the exit code."""
    parser = argparse.ArgumentParser(prog="airgap.controller", description="Install a bundle on the controller.")
    parser.add_argument("command", choices=("check", "populate", "finish"))
    parser.add_argument("bundle", type=Path, help="the unpacked bundle")
    parser.add_argument("root", type=Path, help="where to install it")
    options = parser.parse_args(arguments)
    commands = {"check": check, "populate": populate, "finish": finish}
    try:
        result = commands[options.command](options.bundle.resolve(), options.root)
    except AirgapError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: {error.filename or options.root}: {error.strerror}: mend that and run this again.\n")
        return 1
    sys.stdout.write(f"{result}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
