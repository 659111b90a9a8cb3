"""Nodes that join a cluster in order to leave it, and what one of them was like before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import snapshot
from cluster_site import CPU_WORKERS
from machines import Machines
from playbooks import kept_inventory, played, write_inventory

REMOVED = "pag-worker-3"
"""Serves both pools."""
UNINSTALLED = "pag-worker-4"

OWN_NOTES = (
    r"^/var/(cache/apt|lib/apt/(lists|extended_states))(/|$)"  # apt's caches and notes
    r"|^/var/lib/dpkg/(status|status-old|lock.*|available|triggers/.*|diversions.*)$"  # compared by their content
    r"|^/var/cache/(debconf|ldconfig)(/|$)"
    r"|^/etc/(passwd|shadow|group|gshadow|subuid|subgid)-$"  # the state before the last change
)
"""What apt, dpkg and the tools for users keep for themselves."""


@dataclass(frozen=True)
class LeavingNodes:
    """The nodes, which have joined."""

    before: snapshot.Contents
    """The disk of the one that is uninstalled, before it joined."""


def contents(machines: Machines) -> snapshot.Contents:
    """Return what is on the disk of the node that is uninstalled, and which packages it has."""
    found = snapshot.contents(machines, UNINSTALLED, also_ignore=OWN_NOTES)
    query = "dpkg-query --show --showformat='${Package} ${Version} ${Status}\\n'"
    found["packages"] = (0, 0, 0, machines.ssh(UNINSTALLED, f"{query}; apt-mark showmanual"))
    return found


@contextmanager
def joined(machines: Machines) -> Iterator[LeavingNodes]:
    """Have both nodes in the cluster; the site's inventory comes back afterwards."""
    for name in {REMOVED, UNINSTALLED} - set(machines.addresses()):
        machines.testbed("add", name)
    # As somebody left it who had the package before.
    machines.ssh(UNINSTALLED, "sudo rm -rf /opt/mine; sudo install -D /etc/hostname /opt/mine/file")
    before = contents(machines)
    with kept_inventory(machines):
        write_inventory(machines, (*CPU_WORKERS, REMOVED, UNINSTALLED), {CPU_WORKERS[-1]: "0,1", REMOVED: "0,7"})
        played(machines, "main.yml", "--tags", "prefect-worker", "--limit", f"{REMOVED},{UNINSTALLED}")
        yield LeavingNodes(before)
