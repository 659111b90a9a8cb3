"""What a node's files say: environments, backups, certificates, markers, memory. Standard library only."""

from __future__ import annotations

import calendar
import json
import os
import re
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

_COMPLETE = ".complete"
_CERTIFICATE_SECONDS = 10


def file_systems(directories: list[str]) -> list[dict[str, Any]]:
    """Return size, use and free bytes and inodes of the file systems that have *directories*, each of them once."""
    found: dict[int, dict[str, Any]] = {}
    for directory in directories:
        path = Path(directory)
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
        device = existing.stat().st_dev
        if device in found:
            found[device]["directories"].append(directory)
            continue
        status = os.statvfs(existing)
        # As df counts: what is kept for root is neither free nor used.
        used = status.f_blocks - status.f_bfree
        used_inodes = status.f_files - status.f_ffree
        found[device] = {
            "directories": [directory],
            "bytes": status.f_blocks * status.f_frsize,
            "free_bytes": status.f_bavail * status.f_frsize,
            "used_percent": _percent(used, used + status.f_bavail),
            "used_inodes_percent": _percent(used_inodes, used_inodes + status.f_favail),
        }
    return list(found.values())


def base_environment(home: Path) -> dict[str, Any] | None:
    """Return name and digest of the environment that the services of a node run on, its Prefect and its Python.

    None when there is none. *home* is the service user's home, where the link ``pixi-env`` is.
    """
    link = home / "pixi-env"
    directory = link.resolve()
    if not (directory / _COMPLETE).is_file():
        return None
    name, _, digest = directory.name.rpartition("-")
    packages = {"python": "", "prefect": ""}
    for package in (directory / "env").glob("lib/python3*/site-packages/prefect-[0-9]*.dist-info"):
        packages["prefect"] = package.name.removeprefix("prefect-").removesuffix(".dist-info")
        packages["python"] = package.parent.parent.name.removeprefix("python")
    return {"name": name, "digest": digest, **packages}


def installed_at(home: Path) -> float | None:
    """Return when the first environment was installed below *home*, in seconds since 1970; None: none is."""
    times = [marker.stat().st_mtime for marker in (home / "envs").glob(f"*/{_COMPLETE}")]
    return min(times, default=None)


def drained(directory: Path) -> list[str]:
    """Return the kinds of the workers that are kept from taking runs, by the markers in *directory*."""
    return sorted(
        path.name.removeprefix("worker-").removesuffix(".drained") for path in directory.glob("worker-*.drained")
    )


def backups(directory: Path, now: float) -> list[dict[str, Any]]:
    """Return the complete backups in *directory*, the newest first: name, age in seconds, bytes."""
    found = []
    for manifest in directory.glob("[!.]*/manifest.json"):  # a name that begins with a dot is none yet, or no longer
        files = [path.stat() for path in manifest.parent.rglob("*") if path.is_file()]
        found.append(
            {
                "name": manifest.parent.name,
                "age_seconds": round(max(now - _backup_time(manifest), 0)),
                "bytes": sum(status.st_size for status in files),
            }
        )
    return sorted(found, key=lambda backup: int(backup["age_seconds"]))


def certificates(directory: Path, now: float) -> list[dict[str, Any]]:
    """Return the certificates in the ``*.crt`` files of *directory*: path, when they end, seconds until then.

    ``expires_seconds`` is None for one that cannot be read, and ``problem`` says why. Files without one are left out.
    Only the server's are told: the other nodes have a copy of its authority's, and need not have openssl.
    """
    found: list[dict[str, Any]] = []
    if not (directory / "server.crt").exists():
        return found
    for path in sorted(directory.glob("*.crt")):
        try:
            if "-----BEGIN CERTIFICATE-----" not in path.read_text(encoding="ascii", errors="replace"):
                continue
            finished = subprocess.run(
                ["openssl", "x509", "-noout", "-enddate", "-in", path],
                capture_output=True,
                text=True,
                timeout=_CERTIFICATE_SECONDS,
            )
            end = finished.stdout.strip().removeprefix("notAfter=")
            seconds = round(ssl.cert_time_to_seconds(end) - now)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            found.append({"path": str(path), "expires": "", "expires_seconds": None, "problem": str(error)})
        else:
            expires = time.strftime("%Y-%m-%d", time.gmtime(now + seconds))
            found.append({"path": str(path), "expires": expires, "expires_seconds": seconds, "problem": ""})
    return found


def upgrade_state(directory: Path) -> dict[str, str] | None:
    """Return what the last upgrade's record in *directory* says: file, state, time; None when there is none."""
    records = sorted(directory.glob("*/state.json"))
    if not records:
        return None
    path = records[-1]
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        document = {}
    state = document.get("state", "") if isinstance(document, dict) else ""
    written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(path.stat().st_mtime))
    return {"file": str(path), "state": str(state), "time": written}


def memory(meminfo: Path = Path("/proc/meminfo")) -> dict[str, int]:
    """Return the machine's memory in bytes: all of it, and what programs could still have."""
    lines = meminfo.read_text(encoding="ascii").splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.split()[1:]}
    return {"bytes": values["MemTotal"], "available_bytes": values.get("MemAvailable", values["MemFree"])}


def uptime(processes: Path = Path("/proc")) -> int:
    """Return for how many seconds the first process runs: in a container, that is not since the kernel's start."""
    # The name, in parentheses, may have blanks in it; the start is the 22nd field, counted from 1.
    fields = (processes / "1/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return max(round(time.clock_gettime(time.CLOCK_BOOTTIME) - started), 0)


def operating_system(release: Path = Path("/etc/os-release")) -> str:
    """Return the name of the operating system's release."""
    found = re.search(r'^PRETTY_NAME="?(?P<name>[^"\n]*)', release.read_text(encoding="utf-8"), re.MULTILINE)
    return found["name"] if found else ""


def _backup_time(manifest: Path) -> float:
    """Return when a backup was made: its directory is named after the time in UTC, else it is the manifest's."""
    digits = re.sub(r"\D", "", manifest.parent.name)[:14]
    try:
        return float(calendar.timegm(time.strptime(digits, "%Y%m%d%H%M%S")))
    except ValueError:
        return manifest.stat().st_mtime


def _percent(part: int, whole: int) -> int:
    return round(100 * part / whole) if whole > 0 else 0
