"""A control group of its own for each machine.

Where the host's systemd does not give a machine one, all machines would share the group that this program runs in, and
their systemds would take the groups of their services away from each other (seen as status 219/CGROUP at boot).
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from process import TestbedError

_PREFIX = "pag-testbed-"


def _hierarchies() -> list[Path]:
    """Return where systemd's own hierarchies are mounted on the host: version 2, and version 1's ``name=systemd``."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, about = line.partition(" - ")
        kind, _, options = about.partition(" ")
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options):
            found.append(Path(fields.split()[4]))
    return found


def _groups(unit: str) -> list[Path]:
    return [hierarchy / f"{_PREFIX}{unit}" for hierarchy in _hierarchies()]


def enter(unit: str) -> None:
    """Move this process into the group of the machine *unit*; for the moment before it becomes systemd-nspawn."""
    for group in _groups(unit):
        group.mkdir(exist_ok=True)
        (group / "cgroup.procs").write_text(str(os.getpid()))


def remove(unit: str) -> None:
    """Remove the group of the machine *unit*, which does not run any more; one that is not there is no error."""
    deadline = time.monotonic() + 10
    for group in _groups(unit):
        while group.exists():
            # Innermost first. A process that was just killed keeps its group for a moment.
            for directory, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    Path(directory).rmdir()
            if group.exists():
                if time.monotonic() > deadline:
                    raise TestbedError(f"The control group {group} is still in use: see its cgroup.procs.")
                time.sleep(0.05)
