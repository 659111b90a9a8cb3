"""What is on the machines' disks, to show that something changed nothing."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from machines import Machines

Snapshot = dict[str, tuple[int, int, int, int]]
"""By ``MACHINE:PATH``: mode, owner, and for what is no directory size and time of the last change in ns."""

# What a running machine writes by itself, and the traces of logging in and of Ansible: temporary files, and receipts of
# what it found.
_UNRELATED = re.compile(
    r"/(run|tmp|var/tmp|var/log|var/lib/systemd|var/lib/sudo|var/lib/postgresql|var/cache/ldconfig)(/|$)"
    r"|/(home/[^/]+|root)/(\.ansible|\.ssh/(cp|known_hosts)|\.cache)(/|$)"
    r"|/__pycache__(/|$)"
    r"|/opt/pag/receipts(/|$)"
    r"|/etc/(machine-id|resolv\.conf|hosts)$"
)


def take(machines: Machines, names: Sequence[str] | None = None, *, also_ignore: str | None = None) -> Snapshot:
    """Return the state of the named machines' disks (default: of all), read on the host from their overlays.

    Only what differs from the base is looked at, so it is quick. *also_ignore* is a regular expression over paths.
    """
    found: Snapshot = {}
    ignored = re.compile(also_ignore) if also_ignore else None
    for name in names if names is not None else machines.addresses():
        upper = machines.directory / name / "storage" / "upper"
        for directory, directories, files in os.walk(upper):
            below = "/" + os.path.relpath(directory, upper).removeprefix(".")
            directories[:] = [
                entry
                for entry in directories
                if not _skipped(os.path.join(below, entry), ignored)  # noqa: PTH118
            ]
            for entry in [*directories, *files]:
                path = os.path.join(below, entry)  # noqa: PTH118, some 10,000 of them
                if _skipped(path, ignored):
                    continue
                try:
                    status = os.lstat(os.path.join(directory, entry))  # noqa: PTH118
                except FileNotFoundError:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    found[f"{name}:{path}"] = (status.st_mode, status.st_uid, 0, 0)
                else:
                    found[f"{name}:{path}"] = (status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns)
    return found


Contents = dict[str, tuple[int, int, int, str]]
"""By path: mode, owner, group, and the SHA-256 of a file or the target of a link."""


def contents(machines: Machines, name: str, *, also_ignore: str | None = None) -> Contents:
    """Return all that is on a machine's disk, read on the host: whether it is the same, not whether it was written.

    *also_ignore* is a regular expression over paths.
    """
    found: Contents = {}
    ignored = re.compile(also_ignore) if also_ignore else None
    root = machines.directory / name / "root"
    for directory, directories, files in os.walk(root):
        below = "/" + os.path.relpath(directory, root).removeprefix(".")
        directories[:] = [
            entry
            for entry in directories
            if not _skipped(str(Path(below, entry)), ignored) and not Path(directory, entry).is_mount()
        ]
        for entry in [*directories, *files]:
            path = Path(below, entry)
            if _skipped(str(path), ignored):
                continue
            status = Path(directory, entry).lstat()
            found[str(path)] = (status.st_mode, status.st_uid, status.st_gid, _content(Path(directory, entry), status))
    return found


def _content(path: Path, status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        return str(path.readlink())
    if stat.S_ISREG(status.st_mode):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return ""


def _skipped(path: str, ignored: re.Pattern[str] | None) -> bool:
    return bool(_UNRELATED.search(path) or (ignored and ignored.search(path)))


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return what differs, one line each: ``+`` new, ``-`` gone, ``~`` changed, then ``MACHINE:PATH`` or the path."""
    lines = [f"+ {path}" for path in after.keys() - before.keys()]
    lines += [f"- {path}" for path in before.keys() - after.keys()]
    lines += [f"~ {path}" for path in before.keys() & after.keys() if before[path] != after[path]]
    return sorted(lines, key=lambda line: line[2:])
