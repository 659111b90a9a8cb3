"""What the services of a cluster's machines take of the processors, as their host counts it."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from pathlib import Path

from machines import MachinesError

_TICKS = os.sysconf("SC_CLK_TCK")
# From a process's group on the host (cgroup 2): the machine, and the unit there.
_GROUP = r"^0::/pag-testbed-pag-{cluster}-[^/]+/payload/(?:.*/)?([^/]+\.(?:service|scope))$"
# Processes of runs have units of their own, or their worker's.
_RUN = re.compile(r"^flow-run-.*\.service$")


def seconds_by_unit(cluster: str, processes: Path = Path("/proc")) -> Counter[str]:
    """Return the processor seconds that each unit's processes have taken so far, on all machines of the cluster.

    What has ended is counted where it was waited for, as ``UNIT (ended)``: of runs in units of their own, that is
    ``init.scope``, systemd's. The difference between two moments is what was taken in between.

    Raises MachinesError where the host's groups tell no process of the cluster.
    """
    group = re.compile(_GROUP.format(cluster=re.escape(cluster)), re.MULTILINE)
    found: Counter[str] = Counter()
    for directory in processes.glob("[0-9]*"):
        # It may have ended.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            match = group.search((directory / "cgroup").read_text(encoding="utf-8"))
            if match is None:
                continue
            unit = _RUN.sub("flow-run", match[1])
            # proc_pid_stat(5); the command before it may have spaces.
            fields = (directory / "stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
            own, ended = (sum(map(int, fields[first : first + 2])) / _TICKS for first in (11, 13))
            found[unit] += own
            found[f"{unit} (ended)"] += ended
    if not found:
        raise MachinesError(
            f"No process of {cluster} is known by its control group (cgroup 2): what runs take is unknown."
        )
    return found
