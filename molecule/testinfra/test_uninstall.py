"""A node is what it was before: all of its files, compared before installing and after uninstalling."""

from __future__ import annotations

import pytest
import snapshot
from leaving_nodes import UNINSTALLED as NODE
from leaving_nodes import LeavingNodes, contents
from machines import Machines
from playbooks import Result, play

HOME = "/opt/prefect"


def _uninstall(machines: Machines, *arguments: str) -> Result:
    return play(machines, "uninstall.yml", "--limit", NODE, *arguments)


@pytest.mark.usefixtures("leaving")
def test_it_must_be_meant(machines: Machines) -> None:
    refused = _uninstall(machines)
    assert refused.returncode != 0
    assert f"This removes Prefect from {NODE}: say -e uninstall_confirm=true" in refused.text, refused.output
    assert machines.ssh(NODE, "systemctl is-active prefect-worker-cpu").strip() == "active"


@pytest.mark.usefixtures("leaving")
def test_what_is_not_ours_is_not_deleted(machines: Machines) -> None:
    machines.ssh(NODE, f"sudo touch {HOME}/data.csv")
    try:
        refused = _uninstall(machines, "-e", "uninstall_confirm=true")
    finally:
        machines.ssh(NODE, f"sudo rm {HOME}/data.csv")
    assert refused.returncode != 0
    assert f"({HOME}/data.csv)" in refused.text, refused.output
    assert machines.ssh(NODE, "systemctl is-active prefect-worker-cpu").strip() == "active"


def test_a_node_is_what_it_was_before(machines: Machines, leaving: LeavingNodes) -> None:
    done = _uninstall(machines, "-e", "uninstall_confirm=true")
    assert done.returncode == 0, done.output[-3000:]
    assert snapshot.differences(leaving.before, contents(machines)) == []
    assert set(done.changed) == {NODE}
