"""Kill a part of what runs need, by chance: a run, something that stands for it, its worker, the server."""

from __future__ import annotations

import random
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster_site import SERVER
from machines import Machines
from prefect_api import ApiError, PrefectApi

# How often each kind is chosen, in comparison with the others.
_KINDS = {"unit": 3, "program": 3, "client": 2, "broker": 2, "waiting": 2, "cancel": 2, "worker": 2, "server": 1}
_PROGRAMS = {
    "client": "/usr/bin/python3 .*pag-run/client.py",
    # The one that all runs of the node come from is among them.
    "broker": "/usr/bin/python3 .*pag-run/broker.py",
    # Until it has its GPUs, what becomes the client.
    "waiting": ".*pag_worker/gpus.py .*--count",
}
_RUN = re.compile(r"flow-run-([0-9a-f-]{36})-\S+\.service")
# A run's worker may have been killed this long before the server hears that it had taken the run.
_HEARD_SECONDS = 5


@dataclass(frozen=True)
class Kill:
    """Something that was killed."""

    kind: str
    at: float
    """Seconds since 1970."""
    node: str
    run: str | None = None
    """The run that was meant; None: any of the node may have been hit."""

    def explains(self, run: str, node: str | None, began: float, ended: float) -> bool:
        """Whether it may have ended *run*, which was *node*'s from *began* to *ended*, in seconds since 1970."""
        if self.run is not None:
            return self.run == run
        return self.node == node and began - _HEARD_SECONDS <= self.at <= ended


@dataclass
class RandomKills:
    """Kills on some nodes, and on the server."""

    machines: Machines
    api: PrefectApi
    nodes: Sequence[str]
    service: str
    """The workers' unit."""
    chance: random.Random
    done: list[Kill] = field(default_factory=list)

    def kill(self) -> Kill | None:
        """Kill something of a kind, both chosen by chance; None where there is nothing of the kind."""
        kind = self.chance.choices(list(_KINDS), list(_KINDS.values()))[0]
        node, run = self.chance.choice(self.nodes), None
        at = time.time()
        if kind in ("unit", "program"):
            run = found = self._kill_run(node, "all" if kind == "unit" else "main")
        elif kind in _PROGRAMS:
            found = self._kill_program(node, _PROGRAMS[kind])
        elif kind == "cancel":
            run = found = self._cancel()
        else:
            node, unit = (node, self.service) if kind == "worker" else (SERVER, "prefect-server.service")
            found = self.machines.ssh(node, f"sudo systemctl kill --signal=KILL {unit}; echo killed")
        if not found:
            return None
        self.done.append(Kill(kind, at, node, run))
        return self.done[-1]

    def _kill_run(self, node: str, which: str) -> str | None:
        """Kill all processes of a run, or its ``main`` one alone; return which run."""
        listed = self.machines.ssh(node, "systemctl list-units --plain --no-legend --state=active 'flow-run-*'")
        runs = {match[0]: match[1] for match in _RUN.finditer(listed)}
        if not runs:
            return None
        unit = self.chance.choice(sorted(runs))
        # It may have ended by itself meanwhile.
        self.machines.ssh(node, f"sudo systemctl kill --signal=KILL --kill-who={which} {unit}", check=False)
        return runs[unit]

    def _kill_program(self, node: str, pattern: str) -> str | None:
        """Kill a process whose command is like *pattern*; return which."""
        found = self.machines.ssh(node, f"pgrep --full {shlex.quote(f'^{pattern}')} || test $? = 1").split()
        if not found:
            return None
        process = self.chance.choice(found)
        self.machines.ssh(node, f"sudo kill -KILL {process}", check=False)
        return process

    def _cancel(self) -> str | None:
        """Cancel a run; return which. The server may be away."""
        body = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": False}
        try:
            running = self.api.request(
                "POST", "/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
            )
            if not running:
                return None
            run = str(self.chance.choice(sorted(entry["id"] for entry in running)))
            self.api.request("POST", f"/flow_runs/{run}/set_state", body)
        except ApiError:
            return None
        return run
