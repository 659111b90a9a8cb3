"""Read the journal of units of ours. Standard library only."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

# Prefect prints its log: 06:12:40.123 | ERROR   | prefect.worker.process.name - message
_PREFECT_ERROR = r"\| (ERROR|CRITICAL) +\|"
_PREFECT_LINE = re.compile(r"^\d\d:\d\d:\d\d\.\d+ \| +(?P<level>[A-Z]+) +\| +(?P<origin>.*?) - ", re.DOTALL)
_WORKERS = "prefect-worker-"
_WORKERS_LOGGERS = re.compile(r"prefect\.(?:worker|flow_runs\.(?:worker|runner)|runner)\b")
# What a worker prints besides.
_WORKERS_OWN = re.compile(
    r"Waiting for the Prefect server: |The Prefect server answers\.$|Worker '[^']*' "
    r"|The worker's runs could not be vouched for: "
    r"|The worker (?:stops: it |has ended, |takes (?:no )?runs|waits for the Prefect server: )"
    r"|The run \S+ is (?:ended\.$|another worker's )|The end of the run \S+ is reported later: "
)
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
_SECONDS = 20


def entries(*arguments: str) -> list[dict[str, Any]]:
    """Return the journal's entries for ``journalctl``'s *arguments*: unit, time (seconds since 1970), message."""
    finished = subprocess.run(
        ["journalctl", "--quiet", "--no-pager", "--output=json", *arguments],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    found = []
    for line in finished.stdout.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # it was being written
        message = entry.get("MESSAGE")
        if isinstance(message, list):  # not text, byte by byte
            message = bytes(message).decode("utf-8", "replace")
        found.append(
            {
                # What systemd itself says of a unit names it elsewhere.
                "unit": entry.get("UNIT") or entry.get("_SYSTEMD_UNIT") or "",
                "time": int(entry.get("__REALTIME_TIMESTAMP", 0)) / 1e6,
                "message": _COLORS.sub("", str(message or "")),
                "from_unit": not entry.get("UNIT"),
            }
        )
    return found


def is_of_a_run(entry: dict[str, Any], unit: str = "") -> bool:
    """Return whether an entry in the journal of a *unit* was said by a flow run, not by the unit itself.

    Workers repeat what runs print. Whatever is not clearly the worker's own counts as a run's. Without *unit*, it is
    the entry's.
    """
    if not (unit or entry["unit"]).startswith(_WORKERS) or not entry["from_unit"]:
        return False
    found = _PREFECT_LINE.match(entry["message"])
    if found:
        return not _WORKERS_LOGGERS.match(found["origin"])
    return not _WORKERS_OWN.match(entry["message"])


def last_errors(units: list[str], since: str, count: int) -> list[dict[str, Any]]:
    """Return at most *count* errors of *units* since a time as journalctl knows it (``-24h``), the newest first."""
    if not units:
        return []
    selected = [*(f"--unit={unit}" for unit in units), f"--since={since}", "--reverse", f"--lines={4 * count}"]
    found = entries(*selected, "--priority=err")
    found += entries(*selected, f"--grep={_PREFECT_ERROR}", "--case-sensitive=true")
    errors = sorted((entry for entry in found if not is_of_a_run(entry)), key=lambda entry: -float(entry["time"]))
    # The same again and again is said once.
    distinct = {(entry["unit"], entry["message"]): entry for entry in reversed(errors)}
    return sorted(distinct.values(), key=lambda entry: -float(entry["time"]))[:count]
