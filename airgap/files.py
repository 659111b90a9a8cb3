"""Small operations on files that the node-side programs share."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from airgap.environment import PackageFile
from airgap.errors import InstallationError, VerificationError
from airgap.hashing import sha256_of_file


def check_packages(packages: Iterable[PackageFile], mirror: Path) -> None:
    """Raise VerificationError unless every one of *packages* is in *mirror* with its SHA-256."""
    with ThreadPoolExecutor() as pool:
        faults = [fault for fault in pool.map(lambda package: _fault(package, mirror), packages) if fault]
    if faults:
        raise VerificationError(
            f"The mirror {mirror} does not have what the environment is made of ({'; '.join(sorted(faults))}): "
            "carry the bundle over again."
        )


def _fault(package: PackageFile, mirror: Path) -> str | None:
    path = mirror / package.path
    if not path.resolve().is_relative_to(mirror.resolve()):
        return f"{package.path} leads out of the mirror"
    try:
        if path.stat().st_size != package.size or sha256_of_file(path) != package.sha256:
            return f"{package.path} is damaged"
    except FileNotFoundError:
        return f"{package.path} is missing"
    return None


def link_points_to(link: Path, destination: Path) -> bool:
    """Return whether *link* is a symbolic link with exactly *destination* as its content."""
    return link.is_symlink() and link.readlink() == destination


def switch_link(link: Path, destination: Path) -> bool:
    """Point the symbolic *link* at *destination* atomically; return whether it pointed elsewhere before.

    Raises InstallationError when something other than a link is there.
    """
    if link_points_to(link, destination):
        return False
    if link.exists() and not link.is_symlink():
        raise InstallationError(f"{link} is not a link, and so cannot be switched to {destination}: move it away.")
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(destination)
    temporary.replace(link)
    return True
