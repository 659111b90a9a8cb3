"""What a cluster is, so that "nothing was changed" can be asserted: files, units, and the server's objects."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import snapshot
from machines import Machines
from prefect_api import PrefectApi

# The SSH user's own files (that is where the tests prepare theirs), and what Prefect writes while it runs.
_NOT_LOOKED_AT = "|".join(
    (
        r"^/home(/|$)",
        r"^/opt/prefect/\.prefect/(?!profiles\.toml$)",
        r"^/opt/prefect/\.cache(/|$)",
        r"^/var/lib/nginx(/|$)",
    )
)

# A unit that was restarted has another process. What is left in the temporary directories counts as well.
_UNITS = "systemctl show --property=Id,ActiveState,MainPID 'prefect*' 'pag*' 'nginx*' 'postgresql*'"
_LEFTOVERS = (
    "sudo find /tmp /var/tmp -mindepth 1 -maxdepth 1"
    " ! -name 'systemd-private-*' ! -name '.ansible*' ! -name runner_storage"
)
_VOLATILE = {"updated", "status", "last_polled", "active_slots"}


@dataclass(frozen=True)
class State:
    """What was there at a moment."""

    files: snapshot.Snapshot
    lines: frozenset[str]
    """About units, temporary files and the server's objects."""

    def differences(self, later: State) -> list[str]:
        """Return what is otherwise in *later*, for people to read."""
        return [
            *snapshot.differences(self.files, later.files),
            *(f"- {line}" for line in sorted(self.lines - later.lines)),
            *(f"+ {line}" for line in sorted(later.lines - self.lines)),
        ]


def look(machines: Machines, api: PrefectApi | None) -> State:
    """Look at all machines of the cluster, and at the server where *api* is given."""
    names = list(machines.addresses())
    with ThreadPoolExecutor() as pool:
        listings = pool.map(lambda name: machines.ssh(name, f"{_UNITS}; echo; {_LEFTOVERS}"), names)
        files = snapshot.take(machines, names, also_ignore=_NOT_LOOKED_AT)
        lines = [
            f"{name}: {' '.join(block.split())}"
            for name, text in zip(names, listings, strict=True)
            for block in text.split("\n\n")
        ]
    return State(files, frozenset([*lines, *(_objects(api) if api else ())]))


def _objects(api: PrefectApi) -> list[str]:
    kinds: Sequence[str] = ("flows", "deployments", "work_pools", "v2/concurrency_limits")
    return [f"{kind}: {_steady(entry)!r}" for kind in kinds for entry in api.request("POST", f"/{kind}/filter", {})]


def _steady(value: Any) -> Any:
    """Return the value without what the server itself changes."""
    if isinstance(value, dict):
        return {key: _steady(entry) for key, entry in sorted(value.items()) if key not in _VOLATILE}
    return [_steady(entry) for entry in value] if isinstance(value, list) else value
