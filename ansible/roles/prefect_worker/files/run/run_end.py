"""How a run ended, in words. Standard library only."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import NamedTuple

from run_counters import Counters

PROPERTIES = ("LoadState", "Result", "ExecMainCode", "ExecMainStatus")

# As waitid(2) has it, and systemd with it.
_EXITED = 1


class End(NamedTuple):
    """How a run ended."""

    status: int
    signal: int | None = None
    reason: str | None = None

    def fields(self) -> list[bytes]:
        """Return what the worker is told."""
        number = b"" if self.signal is None else b"%d" % self.signal
        return [b"%d" % self.status, number, (self.reason or "").encode()]


def read_end(shown: str, limits: Mapping[str, str], status: int, counters: Counters) -> End:
    """Return how a run ended.

    *shown* is what systemd says of the unit, *status* the exit status of what waited for it. A unit that did not fail
    is forgotten by systemd.
    """
    found = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    refused = _refused(limits, counters)
    if status == 0:
        return End(0, None, refused)
    if found.get("LoadState") != "loaded":
        # Of all that is no failure to systemd, a flow that was told to stop ends so.
        return End(128 + signal.SIGTERM, signal.SIGTERM, refused)
    code, number = int(found.get("ExecMainCode") or 0), int(found.get("ExecMainStatus") or 0)
    reason = _reason(found["Result"], limits, counters)
    if code == 0:
        return End(status, None, reason or "The run could not be started: see the journal.")
    killed = None if code == _EXITED else number
    if reason is None and refused:
        reason = f"{refused} It ended with {'status' if killed is None else 'signal'} {number}."
    return End(number if killed is None else 128 + number, killed, reason)


def _refused(limits: Mapping[str, str], counters: Counters) -> str | None:
    if counters.count("tasks_max", "max"):
        return f"Out of processes: the run wanted more processes and threads than tasks_max={limits['tasks_max']}."
    return None


def _reason(result: str, limits: Mapping[str, str], counters: Counters) -> str | None:
    if result == "oom-kill":
        # Killed by the kernel, and never at its own limit.
        innocent = counters.count("memory_max", "oom_kill") and counters.count("memory_max", "max") == 0
        if "memory_max" in limits and not innocent:
            return f"Out of memory: the run used more than memory_max={limits['memory_max']}."
        return "Out of memory: the node had no more for its runs, and the kernel ended this one."
    if result == "timeout" and "time_max" in limits:
        return f"Out of time: the run took longer than time_max={limits['time_max']} seconds."
    return None
