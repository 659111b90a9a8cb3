"""The root file systems that machines are overlays of: a debootstrapped Debian with a node's ordinary software."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from places import CACHE, locked, remove_tree
from process import TestbedError, run

USER = "operator"
"""Who logs in to the machines, with sudo and without a password."""

# What a node has before anyone installs Prefect. Nothing that a bundle must bring (rsync, PostgreSQL, a proxy).
_PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "openssh-server",
    "procps",
    "python3",
    "sudo",
    "systemd",
    "systemd-sysv",
)

# The distribution's own jobs that would reach for the Internet, and be counted as attempts of ours.
_MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer")

# Change it when prepare() changes, so that bases made by an older one are not used.
_REVISION = 1


@dataclass(frozen=True)
class Release:
    """A Debian release that machines can run."""

    name: str
    codename: str
    kernel: str | None = None
    """The package with its own kernel, for virtual machines; None: it runs on the host's."""

    @property
    def packages(self) -> tuple[str, ...]:
        """What it is made of."""
        return _PACKAGES if self.kernel is None else (*_PACKAGES, self.kernel)

    @property
    def path(self) -> Path:
        """Where its finished root file system is."""
        contents = hashlib.sha256(repr((self.packages, _MASKED, _REVISION)).encode()).hexdigest()
        return CACHE / f"{self.name}-{contents[:8]}"


RELEASES = {
    release.name: release
    for release in (
        Release("debian-12", "bookworm"),
        Release("debian-13", "trixie"),
        Release("virtual-debian-12", "bookworm", "linux-image-cloud-amd64"),
    )
}


def ensure(name: str) -> Path:
    """Return the root file system of the release called *name*; it is made when there is none.

    It gets its name when it is complete: what an interrupted run leaves behind is never used.
    """
    if name not in RELEASES:
        raise TestbedError(f"There are no machines of {name}: choose one of {', '.join(RELEASES)}.")
    release = RELEASES[name]
    with locked(f"base-{release.name}"):
        if not release.path.exists():
            _make(release)
    return release.path


def _make(release: Release) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    for leftover in [*CACHE.glob(f".{release.name}-*"), *CACHE.glob(f"{release.name}-*")]:
        # Other revisions' bases may be in use below a machine's overlay: those stay.
        if leftover.name.startswith(".") and leftover.is_dir():
            remove_tree(leftover)
    unfinished = CACHE / f".{release.path.name}"
    log = CACHE / f".{release.name}.log"
    log.unlink(missing_ok=True)
    run(
        [
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(release.packages)}",
            f"--keyring={_keyring()}",
            release.codename,
            unfinished,
            _archive(),
        ],
        log=log,
    )
    _prepare(unfinished)
    unfinished.rename(release.path)


def _prepare(root: Path) -> None:
    # Debian has a group of that name already.
    run(["chroot", root, "useradd", "--create-home", "--gid", "operator", "--shell", "/bin/bash", USER])
    sudoers = root / "etc/sudoers.d/operator"
    sudoers.write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
    sudoers.chmod(0o440)
    run(["chroot", root, "systemctl", "enable", "systemd-networkd.service", "ssh.service"])
    run(["chroot", root, "systemctl", "mask", *_MASKED])
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (root / "etc/hostname").unlink(missing_ok=True)
    for directory in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(root / directory)
        (root / directory / "partial").mkdir(parents=True)


def _archive() -> str:
    """Return the address of the Debian archive that this host itself uses."""
    texts = [file.read_text(errors="replace") for file in _apt_sources()]
    for text in texts:
        for stanza in re.split(r"\n\s*\n", text):
            uri = re.search(r"^URIs:\s*(\S+)", stanza, re.MULTILINE)
            suites = re.search(r"^Suites:\s*(\S+)", stanza, re.MULTILINE)
            if uri and suites and _is_release(suites[1]):
                return uri[1]
        for line in re.finditer(r"^deb\s+(?:\[[^]]*\]\s*)?(\S+)\s+(\S+)", text, re.MULTILINE):
            if _is_release(line[2]):
                return line[1]
    raise TestbedError("This host's apt sources name no Debian archive: add one to /etc/apt/sources.list.d/.")


def _is_release(suite: str) -> bool:
    return suite in {release.codename for release in RELEASES.values()} | {"stable", "oldstable"}


def _apt_sources() -> list[Path]:
    directory = Path("/etc/apt/sources.list.d")
    files = [Path("/etc/apt/sources.list"), *sorted(directory.glob("*.sources")), *sorted(directory.glob("*.list"))]
    return [file for file in files if file.is_file()]


def _keyring() -> Path:
    """Return the archive's keys as Debian packages them."""
    for suffix in ("gpg", "pgp"):
        path = Path(f"/usr/share/keyrings/debian-archive-keyring.{suffix}")
        if path.exists():
            return path
    raise TestbedError("The archive's keys are missing: install debian-archive-keyring.")
