"""A node leaves the cluster: one that is dead, one that comes back, and what is no node at all."""

from __future__ import annotations

import uuid

import pytest
import snapshot
from cluster_site import CPU_WORKERS, SERVER
from leaving_nodes import REMOVED as NODE
from machines import Machines
from playbooks import play, played
from prefect_api import PrefectApi

pytestmark = pytest.mark.usefixtures("leaving")

POOLS = ("cpu-pool", "gpu-pool")
# Seconds that Ansible waits for a machine that is off.
SOON = ("-e", "ansible_timeout=4")
# What running services write by themselves.
_ALIVE = r"/(opt/prefect/\.prefect|var/(lib|cache)/prefect-|var/lib/nginx)"


def _entries(api: PrefectApi) -> list[str]:
    return [pool for pool in POOLS if NODE in {worker["name"] for worker in api.workers(pool)}]


def _limits(api: PrefectApi) -> set[str]:
    return {limit["name"] for limit in api.request("POST", "/v2/concurrency_limits/filter", {"limit": 200})}


def _running(api: PrefectApi) -> str:
    """Return the id of a run that the node's worker seems to execute."""
    flow = api.request("POST", "/flows/", {"name": "on-a-node-that-dies"})
    body = {
        "flow_id": flow["id"],
        "name": f"run-{uuid.uuid4().hex[:8]}",
        "state": {"type": "RUNNING"},
        "labels": {"prefect.worker.name": NODE},
    }
    return str(api.request("POST", "/flow_runs/", body)["id"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pag-worker-9", "pag-worker-9 is not in the group prefect_workers"),
        (SERVER, f"{SERVER} is the server: uninstall.yml removes it"),
        ("", "Say which node leaves: -e node=NODE"),
    ],
)
def test_what_is_no_worker_is_refused(machines: Machines, name: str, reason: str) -> None:
    refused = play(machines, "remove-worker.yml", "-e", f"node={name}")
    assert refused.returncode != 0
    assert reason in refused.text, refused.output


def test_a_node_that_does_not_answer_is_not_given_up(machines: Machines, api: PrefectApi) -> None:
    """Then it is said to be dead, the server forgets it and its address, and no other node is touched."""
    run, limits = _running(api), {f"gpu-{NODE}-0", f"gpu-{NODE}-7"}
    assert (_entries(api), limits - _limits(api)) == (list(POOLS), set())
    machines.testbed("stop", NODE)
    try:
        refused = play(machines, "remove-worker.yml", *SOON, "-e", f"node={NODE}")
        assert refused.returncode != 0
        assert f"{NODE} does not answer over SSH" in refused.text, refused.output
        assert "-e node_is_dead=true; nothing was removed" in refused.text
        assert (_entries(api), limits - _limits(api)) == (list(POOLS), set())
        before = snapshot.take(machines, (SERVER, *CPU_WORKERS), also_ignore=_ALIVE)
        removed = played(machines, "remove-worker.yml", *SOON, "-e", f"node={NODE}", "-e", "node_is_dead=true")
        after = snapshot.take(machines, (SERVER, *CPU_WORKERS), also_ignore=_ALIVE)
    finally:
        machines.testbed("start", NODE)
    assert snapshot.differences(before, after) == [f"- {SERVER}:/etc/pag/firewall.d/{NODE}.nft"]
    assert "take it out of inventory.yml" in removed.text
    assert (_entries(api), limits & _limits(api)) == ([], set())
    state = api.request("GET", f"/flow_runs/{run}")["state"]
    assert (state["type"], state["message"].startswith("Lost: the node")) == ("CRASHED", True)


def test_a_node_that_answers_loses_all_that_was_installed(machines: Machines, api: PrefectApi) -> None:
    """It came back from the dead here, and is removed although the server has forgotten it already."""
    removed = played(machines, "remove-worker.yml", "-e", f"node={NODE}")
    assert set(removed.changed) - {"localhost"} == {NODE}
    places = "/opt/* /etc/prefect /var/lib/pag /var/lib/prefect-* /etc/systemd/system/prefect-*"
    left = machines.ssh(NODE, f"ls -d {places}", check=False)
    assert left.strip() == ""
    assert machines.ssh(NODE, "id prefect", check=False) == ""
    assert (_entries(api), {name for name in _limits(api) if NODE in name}) == ([], set())
    again = played(machines, "remove-worker.yml", "-e", f"node={NODE}")
    assert again.changed[NODE] == 0, again.output
