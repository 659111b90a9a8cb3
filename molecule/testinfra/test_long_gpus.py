"""Two hundred runs over four GPUs on two nodes, while runs, workers and the server are killed at random.

No GPU is ever two runs' at once, and none is lost. The GPUs are pretended: device files, and a driver's program that
lists them. ``PAG_GPU_RUNS`` is the number of runs, 200 at most, ``PAG_SEED`` says what is killed and when.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from cluster_site import CPU_WORKERS, SERVER, Secrets
from faults import FINAL, eventually
from leases import MAIN, by_gpu, given_twice, leases, make_place, shortest_gap
from machines import Machines
from placed_flow import PlacedFlow
from playbooks import played, write_inventory
from prefect_api import PrefectApi, worker_of
from random_kills import RandomKills
from scenario_log import report
from test_gpus import LOCKS

RUNS = int(os.environ.get("PAG_GPU_RUNS", "200"))
NODES = CPU_WORKERS
GPUS = ("0", "1")
WORKER = "prefect-worker-gpu.service"
# How long there is nothing killed, in seconds.
PAUSES = (2.0, 8.0)
# Slots of limits that killed runs leave behind come back with their leases, after five minutes.
SLOTS_SECONDS = 400

DRIVER = """#!/bin/sh
case "$1" in
-L)
  echo "GPU 0: Pretended A100 (UUID: GPU-00000000-0000)"
  echo "GPU 1: Pretended A100 (UUID: GPU-11111111-1111)"
  ;;
*) echo "| NVIDIA-SMI 535.104.05   Driver Version: 535.104.05   CUDA Version: 12.2 |" ;;
esac
"""


@pytest.fixture(scope="module")
def api(machines: Machines, secrets: Secrets) -> Iterator[PrefectApi]:
    """The server's API, for the whole module."""
    with machines.tunnel() as port:
        yield PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth)


@pytest.fixture(scope="module")
def flow(machines: Machines, api: PrefectApi) -> Iterator[PlacedFlow]:
    """The flow that writes down what it has, on two nodes with two GPUs each."""
    for node in NODES:
        machines.write(node, "nvidia-smi", DRIVER)
        machines.ssh(node, "sudo install nvidia-smi /usr/local/bin/nvidia-smi && rm nvidia-smi")
        machines.ssh(node, "sudo touch /dev/nvidiactl /dev/nvidia0 /dev/nvidia1")
    write_inventory(machines, CPU_WORKERS, dict.fromkeys(NODES, ",".join(GPUS)))
    played(machines, "main.yml")
    make_place(machines, NODES)
    flow = PlacedFlow(machines, api, "leases", MAIN, "main.py:hold", work_pool="gpu-pool")
    with flow.deployed():
        yield flow


@pytest.fixture(scope="module")
def ended(machines: Machines, api: PrefectApi, flow: PlacedFlow) -> tuple[list[dict[str, Any]], RandomKills]:
    """The runs, all of which have ended, and what was killed meanwhile."""
    seed = os.environ.get("PAG_SEED") or str(time.time_ns() % 10**6)
    report(f"PAG_SEED={seed}")
    chance = random.Random(seed)  # noqa: S311 (moments, no secrets)
    kills = RandomKills(machines, api, NODES, WORKER, chance)
    began = time.monotonic()
    runs = [
        flow.start_with(
            {"seconds": chance.uniform(0, 4), "limited": chance.random() < 0.5}, gpus=chance.choice((1, 1, 1, 2))
        )
        for _ in range(RUNS)
    ]
    while len(over := _ended(api, runs)) < RUNS:
        assert time.monotonic() - began < 20 * RUNS, Counter(run["state_name"] for run in _all(api, runs))
        killed = kills.kill()
        what = "nothing" if killed is None else f"{killed.kind} on {killed.node}"
        report(f"{len(over)} of {RUNS} have ended, {what} is killed")
        time.sleep(chance.uniform(*PAUSES))
    states = Counter(run["state_name"] for run in over)
    report(
        f"{dict(states)} after {time.monotonic() - began:.0f} s, killed: {dict(Counter(k.kind for k in kills.done))}"
    )
    return over, kills


def _all(api: PrefectApi, runs: list[str]) -> list[dict[str, Any]]:
    query = {"flow_runs": {"id": {"any_": runs}}}
    return list(eventually(lambda: api.request("POST", "/flow_runs/filter", query), 120, "the server does not answer"))


def _ended(api: PrefectApi, runs: list[str]) -> list[dict[str, Any]]:
    return [run for run in _all(api, runs) if run["state_type"] in FINAL]


def test_every_run_ended_as_it_should(api: PrefectApi, ended: tuple[list[dict[str, Any]], RandomKills]) -> None:
    runs, kills = ended
    unexplained = []
    for run in runs:
        states = api.request("GET", f"/flow_run_states/?flow_run_id={run['id']}")
        times = [
            datetime.fromisoformat(state["timestamp"]).timestamp() for state in states if state["type"] != "SCHEDULED"
        ]
        hit = any(kill.explains(run["id"], worker_of(run), min(times), max(times)) for kill in kills.done)
        if run["state_type"] != "COMPLETED" and not (hit and run["state"]["message"]):
            unexplained.append((run["id"], worker_of(run), run["state"]))
            had = [(state["timestamp"], state["name"], state["message"]) for state in states]
            report(f"{run['id']} of {worker_of(run)}, which nothing explains, had the states {had}")
    assert unexplained == []


def test_no_gpu_was_two_runs_at_the_same_time(
    machines: Machines, ended: tuple[list[dict[str, Any]], RandomKills]
) -> None:
    completed = {run["id"] for run in ended[0] if run["state_type"] == "COMPLETED"}
    found = leases(machines, NODES)
    report(
        f"{len(found)} leases, {sum(not lease.ended for lease in found)} of them killed; each GPU's: "
        f"{ {gpu: len(given) for gpu, given in by_gpu(found).items()} }; shortest gap {shortest_gap(found):.2f} s"
    )
    assert given_twice(found) == []
    assert [lease for lease in found if lease.opens != tuple(sorted(lease.gpus))] == []
    # The records are all there.
    assert completed <= {lease.run for lease in found if lease.ended}
    assert set(by_gpu(found)) == {f"{node}/{gpu}" for node in NODES for gpu in GPUS}


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize("node", NODES)
def test_no_gpu_is_lost(machines: Machines, flow: PlacedFlow, node: str) -> None:
    assert machines.ssh(node, f"sudo ls {LOCKS}/queue") == ""
    for gpu in GPUS:
        machines.ssh(node, f"sudo flock --nonblock {LOCKS}/{gpu}.lock true")
    others = [other for other in NODES if other != node]
    for other in others:
        machines.ssh(other, f"sudo systemctl stop {WORKER}")
    try:
        run = flow.start_with({"seconds": 0, "limited": True}, gpus=len(GPUS))
        flow.wait_for(run, "Completed", seconds=SLOTS_SECONDS)
    finally:
        for other in others:
            machines.ssh(other, f"sudo systemctl start {WORKER}")


@pytest.mark.usefixtures("ended")
def test_limits_on_the_server_agree_with_the_leases(api: PrefectApi) -> None:
    names = [f"gpu-{node}-{gpu}" for node in NODES for gpu in GPUS]

    def free() -> bool:
        return all(api.request("GET", f"/v2/concurrency_limits/{name}")["active_slots"] == 0 for name in names)

    eventually(free, SLOTS_SECONDS, "slots of GPUs that nobody has are taken")


@pytest.mark.usefixtures("ended")
def test_everything_still_runs(machines: Machines) -> None:
    for machine, unit in ((SERVER, "prefect-server.service"), *((node, WORKER) for node in NODES)):
        assert machines.ssh(machine, f"systemctl is-active {unit}").strip() == "active"
