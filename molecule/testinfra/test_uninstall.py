"""A node is what it was before: all of its files, compared before installing and after uninstalling."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import snapshot
from cluster_site import CPU_WORKERS
from machines import Machines
from playbooks import Result, kept_inventory, play, played, write_inventory

NODE = "pag-worker-4"
HOME = "/opt/prefect"

OWN_NOTES = (
    r"^/var/(cache/apt|lib/apt/(lists|extended_states))(/|$)"  # apt's caches and notes
    r"|^/var/lib/dpkg/(status|status-old|lock.*|available|triggers/.*|diversions.*)$"  # compared by their content
    r"|^/var/cache/(debconf|ldconfig)(/|$)"
    r"|^/etc/(passwd|shadow|group|gshadow|subuid|subgid)-$"  # the state before the last change
)
"""What apt, dpkg and the tools for users keep for themselves."""


@pytest.fixture(scope="module")
def before(machines: Machines) -> Iterator[snapshot.Contents]:
    """A new machine's disk, and then it joins the cluster."""
    if NODE not in machines.addresses():
        machines.testbed("add", NODE)
    # As somebody left it who had the package before.
    machines.ssh(NODE, "sudo rm -rf /opt/mine; sudo install -D /etc/hostname /opt/mine/file")
    found = snapshot.contents(machines, NODE, also_ignore=OWN_NOTES)
    found["packages"] = (0, 0, 0, _packages(machines))
    with kept_inventory(machines):
        write_inventory(machines, (*CPU_WORKERS, NODE), {CPU_WORKERS[-1]: "0,1"})
        played(machines, "main.yml", "--tags", "prefect-worker", "--limit", NODE)
        yield found


def _packages(machines: Machines) -> str:
    query = "dpkg-query --show --showformat='${Package} ${Version} ${Status}\\n'"
    return machines.ssh(NODE, f"{query}; apt-mark showmanual")


def _uninstall(machines: Machines, *arguments: str) -> Result:
    return play(machines, "uninstall.yml", "--limit", NODE, *arguments)


def test_it_must_be_meant(machines: Machines, before: snapshot.Contents) -> None:
    assert before
    refused = _uninstall(machines)
    assert refused.returncode != 0
    assert f"This removes Prefect from {NODE}: say -e uninstall_confirm=true" in refused.text, refused.output
    assert machines.ssh(NODE, "systemctl is-active prefect-worker-cpu").strip() == "active"


def test_what_is_not_ours_is_not_deleted(machines: Machines, before: snapshot.Contents) -> None:
    assert before
    machines.ssh(NODE, f"sudo touch {HOME}/data.csv")
    try:
        refused = _uninstall(machines, "-e", "uninstall_confirm=true")
    finally:
        machines.ssh(NODE, f"sudo rm {HOME}/data.csv")
    assert refused.returncode != 0
    assert f"({HOME}/data.csv)" in refused.text, refused.output
    assert machines.ssh(NODE, "systemctl is-active prefect-worker-cpu").strip() == "active"


def test_a_node_is_what_it_was_before(machines: Machines, before: snapshot.Contents) -> None:
    done = _uninstall(machines, "-e", "uninstall_confirm=true")
    assert done.returncode == 0, done.output[-3000:]
    after = snapshot.contents(machines, NODE, also_ignore=OWN_NOTES)
    after["packages"] = (0, 0, 0, _packages(machines))
    assert snapshot.differences(before, after) == []
    assert set(done.changed) == {NODE}
