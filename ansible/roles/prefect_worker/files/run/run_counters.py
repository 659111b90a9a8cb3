"""How often the kernel refused a run something, as its unit's control group has it. Standard library only.

The group goes with the unit, so the counters are read whenever the kernel says that they have changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_SLICE = "pag.slice/pag-run.slice"
_FILES = {"tasks_max": "pids.events", "memory_max": "memory.events"}


class Counters:
    """The counters of a unit's control group, for those of its *limits* that the kernel counts."""

    def __init__(self, unit: str, limits: Mapping[str, str], root: Path = _ROOT) -> None:
        self._group = root / _SLICE / unit
        self._files = {name: file for name, file in _FILES.items() if name in limits}
        self.awaited = bool(self._files) and (root / "cgroup.controllers").exists()
        """Whether the group is not there yet; version 1 has no such counters."""
        self._names: dict[int, str] = {}
        self._contents: dict[str, str] = {}

    def open(self) -> list[int]:
        """Once, when the group is there, open its files and return descriptors, to be polled for POLLPRI and read."""
        if not self.awaited or not self._group.is_dir():
            return []
        self.awaited = False
        for name, file in self._files.items():
            try:
                descriptor = os.open(self._group / file, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue  # the group has gone already, or its controller is not handed down
            self._names[descriptor] = name
            self.read(descriptor)
        return list(self._names)

    def read(self, descriptor: int) -> bool:
        """Read a file again; False when its group has gone."""
        try:
            self._contents[self._names[descriptor]] = os.pread(descriptor, 4096, 0).decode()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the files."""
        while self._names:
            os.close(self._names.popitem()[0])

    def count(self, limit: str, counter: str) -> int | None:
        """Return what *counter* was when it was last seen; None when it never was."""
        found = dict(line.split() for line in self._contents.get(limit, "").splitlines())
        return int(found[counter]) if counter in found else None
