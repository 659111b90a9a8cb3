"""Targets: the operating system releases and architectures of nodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from airgap.errors import UsageError


@dataclass(frozen=True)
class Release:
    """A distribution release that nodes may run."""

    name: str
    """As operators type it: os-release's ID and VERSION_ID, joined by a hyphen."""
    codename: str
    """The suite in the distribution's archive."""
    python: str
    """Version (major.minor) of the distribution's own ``python3``."""
    glibc: str
    """Version of the distribution's C library: wheels and conda packages may need at most this."""
    python_release: str
    """Full version of the distribution's ``python3``: locks have markers that look at its last part."""

    @property
    def distribution(self) -> str:
        """``debian`` or ``ubuntu``."""
        return self.name.partition("-")[0]


RELEASES = {
    release.name: release
    for release in (
        Release("debian-12", "bookworm", "3.11", "2.36", "3.11.2"),
        Release("debian-13", "trixie", "3.13", "2.41", "3.13.5"),
        Release("ubuntu-22.04", "jammy", "3.10", "2.35", "3.10.12"),
        Release("ubuntu-24.04", "noble", "3.12", "2.39", "3.12.3"),
    )
}

# The kernel's name of an architecture, and what Debian and conda call it.
_DEBIAN_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_CONDA_PLATFORMS = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}


@dataclass(frozen=True)
class Target:
    """A release on an architecture, for example ``debian-12-x86_64``."""

    release: Release
    architecture: str
    """As ``uname -m`` prints it."""

    @property
    def name(self) -> str:
        """The name in manifests and paths."""
        return f"{self.release.name}-{self.architecture}"

    @property
    def debian_architecture(self) -> str:
        """As dpkg names the architecture."""
        return _DEBIAN_ARCHITECTURES[self.architecture]

    @property
    def conda_platform(self) -> str:
        """As conda names the platform (the channel's subdirectory)."""
        return _CONDA_PLATFORMS[self.architecture]


def parse_target(text: str, default_architecture: str = "x86_64") -> Target:
    """Return the target that *text* names: a release, or a release and an architecture.

    Raises UsageError when the release or architecture is not known.
    """
    for architecture in _DEBIAN_ARCHITECTURES:
        if text.endswith(f"-{architecture}"):
            release_name = text.removesuffix(f"-{architecture}")
            break
    else:
        release_name, architecture = text, default_architecture
    if release_name not in RELEASES or architecture not in _DEBIAN_ARCHITECTURES:
        raise UsageError(
            f"The target {text!r} is not known: give one of {', '.join(RELEASES)}, "
            f"with -{' or -'.join(_DEBIAN_ARCHITECTURES)} after it for an architecture."
        )
    return Target(RELEASES[release_name], architecture)


def host_target(architecture: str, os_release: Path = Path("/etc/os-release")) -> Target:
    """Return the target that this host is, from its os-release file and *architecture* (``uname -m``).

    Raises UsageError when the host is none of the known targets.
    """
    fields = dict(line.split("=", 1) for line in os_release.read_text(encoding="utf-8").splitlines() if "=" in line)
    identifier, version = (fields.get(key, "").strip("\"'") for key in ("ID", "VERSION_ID"))
    try:
        return parse_target(f"{identifier}-{version}-{architecture}")
    except UsageError as error:
        raise UsageError(
            f"This host ({identifier} {version}, {architecture}) is no target: name the nodes' release with --target "
            f"({', '.join(RELEASES)})."
        ) from error
