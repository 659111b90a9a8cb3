"""A worker joins a cluster that works; no other node is touched."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
import snapshot
from cluster_site import CPU_WORKERS, SERVER, inventory
from guide import CONTROLLER, Guide, Outcome
from machines import Machines
from playbooks import play
from prefect_api import PrefectApi, worker_of
from test_server import assert_running
from testinfra.host import Host

On = Callable[[str], Host]

NEW = "pag-worker-3"
_OTHERS = (SERVER, *CPU_WORKERS)

# What running services write by themselves.
_ALIVE = r"/(opt/prefect/\.prefect|var/lib/prefect-(server|worker-[cg]pu)|var/cache/prefect-server|var/lib/nginx)(/|$)"


@pytest.fixture(scope="module")
def virgin(machines: Machines) -> None:
    """A machine that has nothing yet, and is in the inventory."""
    if NEW not in machines.addresses():
        machines.testbed("add", NEW)
    machines.write(CONTROLLER, "pag-software-bundle/ansible/inventory.yml", inventory((*CPU_WORKERS, NEW)))


@pytest.mark.usefixtures("virgin")
def test_the_preflight_alone_says_what_it_is_and_changes_nothing(machines: Machines) -> None:
    before = snapshot.contents(machines, NEW)
    checked = play(machines, "preflight.yml", "--limit", NEW)
    assert (checked.returncode, checked.changes) == (0, 0), checked.output[-3000:]
    assert re.search(rf"^ *{NEW} +debian-\d+-x86_64 +\d+ +\d+ +\d+ MB .* [+-]\d+\.\d s", checked.output, re.MULTILINE)
    assert "Nothing is in the way of installing." in checked.output
    assert snapshot.differences(before, snapshot.contents(machines, NEW)) == []


@pytest.mark.usefixtures("virgin")
def test_the_preflight_alone_refuses_what_main_yml_would_refuse(machines: Machines) -> None:
    limits = ["-e", json.dumps({"preflight_minimum_memory": 10**9, "preflight_free_space": {"/var": 10**9}})]
    refused = play(machines, "preflight.yml", "--limit", NEW, *limits)
    assert refused.returncode != 0
    assert refused.refusal.count(f"{NEW}: ") == 2, refused.output[-3000:]
    assert "of memory, 1000000000 MB are needed" in refused.refusal


@pytest.mark.usefixtures("virgin")
def test_no_flow_is_deployed_before_it_is_a_worker(machines: Machines) -> None:
    flow = ("-e", "flow_dir=../flows/demo1", "-e", "entrypoint=main.py:my_workflow")
    refused = play(machines, "prefect-flow-deployment.yml", *flow)
    assert (refused.returncode != 0, refused.changes) == (True, 0)
    assert f"{NEW} is not a worker yet: run main.yml --tags prefect-worker --limit {NEW}" in refused.refusal


@pytest.fixture(scope="module")
def joined(machines: Machines, guide: Guide, virgin: None) -> tuple[Outcome, list[str]]:
    """The outcome of the README's commands for a new node, and what changed on the other nodes."""
    before = snapshot.take(machines, _OTHERS, also_ignore=_ALIVE)
    outcome = guide.run("controller-join", values={"NEW_NODE": NEW})
    return outcome, snapshot.differences(before, snapshot.take(machines, _OTHERS, also_ignore=_ALIVE))


def test_the_playbook_ends_well(joined: tuple[Outcome, list[str]]) -> None:
    assert joined[0].returncode == 0, joined[0].output[-3000:]


def test_no_other_node_is_in_the_recap(joined: tuple[Outcome, list[str]]) -> None:
    assert set(joined[0].changed) - {"localhost"} == {NEW}


def test_no_other_node_is_touched(joined: tuple[Outcome, list[str]]) -> None:
    """But the server's firewall lets the new node in, with a file of its own."""
    assert joined[1] == [f"+ {SERVER}:/etc/pag/firewall.d/{NEW}.nft"]


@pytest.mark.usefixtures("joined")
def test_the_worker_runs(on: On, api: PrefectApi) -> None:
    assert_running(on(NEW), "prefect-worker-cpu")
    assert NEW in {worker["name"] for worker in api.workers("cpu-pool") if worker["status"] == "ONLINE"}


@pytest.mark.usefixtures("joined")
def test_it_has_every_flow_of_its_pools(on: On) -> None:
    def environments(name: str) -> set[str]:
        return set(on(name).check_output("ls /opt/prefect/envs").split())

    assert environments(NEW) == environments("pag-worker-1")


@pytest.mark.usefixtures("joined")
def test_it_runs_flows_alone(machines: Machines, api: PrefectApi) -> None:
    machines.testbed("stop", *CPU_WORKERS)
    try:
        run = api.start("my-workflow/my_workflow")
        ended = api.wait(run)
    finally:
        machines.testbed("start", *CPU_WORKERS)
    assert ended["state_type"] == "COMPLETED"
    assert worker_of(ended) == NEW
