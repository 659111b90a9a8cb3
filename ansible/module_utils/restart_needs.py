"""What still runs of what was replaced: the kernel, the first process, services. Standard library only."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# In /proc/PID/maps: an executable piece of a file that is no longer there. Temporary files are deleted as a matter of
# course.
_DELETED = re.compile(r"^\S+ ..x. .* (?P<path>/(?:usr/|lib|bin/|sbin/|opt/)\S*) \(deleted\)$", re.MULTILINE)
_UNIT = re.compile(r"/(?P<unit>[^/]+\.(?:service|scope|socket))(?:/|$)", re.MULTILINE)
_KERNEL_PREFIX = "vmlinuz-"
# What a Debian kernel says of itself: #1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024-02-01)
_DEBIAN_BUILD = re.compile(r"Debian (?P<version>\S+)")


def reboot_reasons(root: Path = Path("/")) -> list[str]:
    """Return why this machine needs a reboot, one phrase each; empty when it needs none."""
    reasons = []
    marker = root / "run/reboot-required"
    if marker.exists():
        packages = root / "run/reboot-required.pkgs"
        names = sorted(set(packages.read_text(encoding="utf-8").split())) if packages.is_file() else []
        reasons.append(f"packages ask for it ({', '.join(names)})" if names else "packages ask for it")
    reasons += _kernel_reasons(root)
    if deleted_files(root / "proc/1"):
        reasons.append("the first process (systemd) still uses files that were replaced")
    return reasons


def stale_units(root: Path = Path("/")) -> list[str]:
    """Return the units whose processes still use programs or libraries that were replaced or removed."""
    units = set()
    for process in (root / "proc").glob("[0-9]*"):
        try:
            if process.name != "1" and deleted_files(process):
                match = _UNIT.search((process / "cgroup").read_text(encoding="utf-8"))
                units.add(match["unit"] if match else (process / "comm").read_text(encoding="utf-8").strip())
        except OSError:
            continue  # it ended meanwhile
    return sorted(units)


def deleted_files(process: Path) -> list[str]:
    """Return the programs and libraries that a process, by its directory in /proc, uses after they were deleted."""
    try:
        return sorted({match["path"] for match in _DELETED.finditer((process / "maps").read_text(encoding="utf-8"))})
    except OSError:
        return []


def _kernel_reasons(root: Path) -> Iterator[str]:
    kernel = root / "proc/sys/kernel"
    running = (kernel / "osrelease").read_text(encoding="ascii").strip()
    installed = [path.name.removeprefix(_KERNEL_PREFIX) for path in (root / "boot").glob(f"{_KERNEL_PREFIX}*")]
    newer = [release for release in installed if _is_newer(release, running)]
    if running in installed and newer:
        latest = newer[0]
        for release in newer:
            latest = release if _is_newer(release, latest) else latest
        yield f"the kernel {latest} is installed, {running} is running"
    build = _DEBIAN_BUILD.search((kernel / "version").read_text(encoding="ascii", errors="replace"))
    version = _package_version(f"linux-image-{running}")
    if build and version and _is_newer(version, build["version"]):
        yield f"the kernel's package is of version {version}, {build['version']} is running"


def _is_newer(first: str, second: str) -> bool:
    return subprocess.run(["dpkg", "--compare-versions", first, "gt", second]).returncode == 0


def _package_version(name: str) -> str:
    finished = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${db:Status-Abbrev}${Version}", name], capture_output=True, text=True
    )
    return finished.stdout[3:] if finished.stdout.startswith("ii ") else ""
