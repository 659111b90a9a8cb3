"""A node's systemd units of ours, and the flow runs that its workers have under way. Standard library only."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

# Units of ours are where administrators' units are; the distribution's are named.
_UNIT_DIRECTORY = Path("/etc/systemd/system")
_OWN_PATTERNS = ("prefect-*.service", "pag-*.service", "pag-*.socket", "pag-*.timer")
_DISTRIBUTION = ("postgresql.service", "postgresql@*.service", "nginx.service", "prometheus-node-exporter.service")
_PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "UnitFileState",
    "NRestarts",
    "NeedDaemonReload",
    "StateChangeTimestampMonotonic",
    "ControlGroup",
)
_RUN_VARIABLE = b"PREFECT__FLOW_RUN_ID="


def unit_names(directory: Path = _UNIT_DIRECTORY) -> list[str]:
    """Return the names of the units of ours, some of them patterns."""
    own = {path.name for pattern in _OWN_PATTERNS for path in directory.glob(pattern) if not path.is_dir()}
    return [*sorted(own), *_DISTRIBUTION]


def show_units() -> list[dict[str, Any]]:
    """Return the units of ours that are installed: name, states, since when, restarts, group of processes."""
    return parse_units(_systemctl("show", f"--property={','.join(_PROPERTIES)}", *unit_names()), time.monotonic())


def failed_units() -> list[str]:
    """Return the names of all units of the node that failed."""
    said = _systemctl("list-units", "--state=failed", "--plain", "--no-legend", "--full")
    return sorted(line.split()[0] for line in said.splitlines() if line.strip())


def parse_units(text: str, monotonic: float) -> list[dict[str, Any]]:
    """Return what ``systemctl show`` says; *monotonic* is the same clock's time now, in seconds."""
    units = {}
    for block in text.split("\n\n"):
        found = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if found.get("LoadState") in (None, "not-found"):
            continue
        changed = int(found.get("StateChangeTimestampMonotonic") or 0) / 1e6
        units[found["Id"]] = {
            "name": found["Id"],
            "active": found["ActiveState"],
            "sub": found["SubState"],
            "result": found.get("Result", "success"),
            "enabled": found.get("UnitFileState", ""),
            "restarts": int(found.get("NRestarts") or 0),
            "reload_needed": found.get("NeedDaemonReload") == "yes",
            # None: it has never been in another state since the node booted.
            "since_seconds": round(max(monotonic - changed, 0)) if changed else None,
            "control_group": found.get("ControlGroup", ""),
        }
    return [units[name] for name in sorted(units)]


def runs_of(control_group: str, processes: Path = Path("/proc")) -> list[str]:
    """Return the ids of the flow runs whose processes are in a unit's *control_group*; needs root's rights.

    A program that a run left in the background is none: when the run has ended, it is a child of process 1.
    """
    if not control_group:
        return []
    runs = set()
    for process in processes.glob("[0-9]*"):
        try:
            groups = (process / "cgroup").read_text(encoding="utf-8").splitlines()
            if not any(_is_in(line.split(":", 2)[-1], control_group) for line in groups):
                continue
            if "PPid:\t1" in (process / "status").read_text(encoding="utf-8").splitlines():
                continue
            variables = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile
        runs |= {
            variable[len(_RUN_VARIABLE) :].decode("ascii", "replace")
            for variable in variables
            if variable.startswith(_RUN_VARIABLE)
        }
    return sorted(runs)


def _is_in(group: str, control_group: str) -> bool:
    # Where the node is a container, the paths may begin above its own root.
    return group.endswith(control_group) or f"{control_group}/" in group


def _systemctl(*arguments: str) -> str:
    finished = subprocess.run(["systemctl", "--no-pager", *arguments], capture_output=True, text=True)
    return finished.stdout
