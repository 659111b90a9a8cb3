"""What is on the machines' disks, to show that something changed nothing."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence

from machines import Machines

Snapshot = dict[str, tuple[int, int, int, int]]
"""By ``MACHINE:PATH``: mode, owner, and for what is no directory size and time of the last change in ns."""

# What a running machine writes by itself, and the traces of logging in and of Ansible's temporary files.
_UNRELATED = re.compile(
    r"/(run|tmp|var/tmp|var/log|var/lib/systemd|var/lib/sudo|var/lib/postgresql|var/cache/ldconfig)(/|$)"
    r"|/(home/[^/]+|root)/(\.ansible|\.ssh/(cp|known_hosts)|\.cache)(/|$)"
    r"|/__pycache__(/|$)"
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


def _skipped(path: str, ignored: re.Pattern[str] | None) -> bool:
    return bool(_UNRELATED.search(path) or (ignored and ignored.search(path)))


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """Return what differs, one line each: ``+`` new, ``-`` gone, ``~`` changed, then ``MACHINE:PATH``."""
    lines = [f"+ {path}" for path in after.keys() - before.keys()]
    lines += [f"- {path}" for path in before.keys() - after.keys()]
    lines += [f"~ {path}" for path in before.keys() & after.keys() if before[path] != after[path]]
    return sorted(lines, key=lambda line: line[2:])
