"""The limits of a flow run: their names, which values are right, and what systemd calls them.

Deployments are checked with it when they are deployed, runs when they start. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

NAMES = ("memory_max", "cpu_weight", "tasks_max", "time_max")

_MEMORY = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?)(?P<unit>[KMGT])")
_SHARE = re.compile(r"(?P<number>[0-9]+)%")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Less is no flow: an interpreter with Prefect alone takes more.
_LEAST_MEMORY = 64 * 2**20
_LEAST_TASKS = 16
_MOST = {"cpu_weight": 10_000, "tasks_max": 4_000_000, "time_max": 366 * 86_400}
_MEANS = {
    "memory_max": "an amount of memory of at least 64M such as 800M or 4G, or a share such as 50%",
    "cpu_weight": "a whole number from 1 to 10000; 100 is what every run has otherwise",
    "tasks_max": "how many processes and threads a run may have at the same time, from 16",
    "time_max": "after how many seconds a run is ended, from 1",
}


class LimitError(ValueError):
    """A limit has a value that cannot be; the message is one sentence."""


def read_limits(wanted: Mapping[str, Any]) -> dict[str, str]:
    """Return the limits that are set, each as text. Raises LimitError."""
    if unknown := sorted(set(wanted) - set(NAMES)):
        raise LimitError(f"There is no limit called {', '.join(unknown)}: there are {', '.join(NAMES)}.")
    limits = {name: str(wanted[name]).strip() for name in NAMES if wanted.get(name) not in (None, "")}
    for name, value in limits.items():
        if isinstance(wanted[name], bool) or not _is_right(name, value):
            raise LimitError(f"{name} is {wanted[name]!r}: it has to be {_MEANS[name]}.")
    return limits


def unit_properties(limits: Mapping[str, str]) -> list[str]:
    """Return what systemd is told of *limits*, which were read."""
    properties = []
    if "memory_max" in limits:
        # Without the second, a run would go on in the node's swap.
        properties += [f"MemoryMax={limits['memory_max']}", "MemorySwapMax=0"]
    if "cpu_weight" in limits:
        properties.append(f"CPUWeight={limits['cpu_weight']}")
    if "tasks_max" in limits:
        properties.append(f"TasksMax={limits['tasks_max']}")
    if "time_max" in limits:
        properties.append(f"RuntimeMaxSec={limits['time_max']}")
    return properties


def _is_right(name: str, value: str) -> bool:
    if name == "memory_max":
        if share := _SHARE.fullmatch(value):
            return 1 <= int(share["number"]) <= 100
        amount = _MEMORY.fullmatch(value)
        return amount is not None and float(amount["number"]) * _UNITS[amount["unit"]] >= _LEAST_MEMORY
    if not re.fullmatch("[0-9]{1,9}", value):
        return False
    return (_LEAST_TASKS if name == "tasks_max" else 1) <= int(value) <= _MOST[name]
