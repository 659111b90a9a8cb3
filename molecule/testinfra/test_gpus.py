"""GPUs belong to one run each, until the kernel says that it is gone; and they are the ones that the node has.

The node's GPUs are pretended: what leases them needs none.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cluster_site import FLOW_USER
from guide import CONTROLLER
from machines import Machines
from placed_flow import PlacedFlow
from playbooks import DIRECTORY, play
from prefect_api import PrefectApi
from test_flows import expect_in_log
from test_status import document

FLOW = "demo3/my_workflow"
LOCKS = "/run/pag/gpus"

# A driver's program that knows one GPU.
PRETENDED = """#!/bin/sh
case "$1" in
-L) echo "GPU 0: Pretended A100 (UUID: GPU-11111111-2222)" ;;
*) echo "| NVIDIA-SMI 535.104.05   Driver Version: 535.104.05   CUDA Version: 12.2 |" ;;
esac
"""


@pytest.fixture(scope="module")
def node(machines: Machines) -> str:
    """The GPU worker, with two GPUs."""
    return max(name for name in machines.addresses() if name.startswith("pag-worker-"))


def _start(api: PrefectApi, gpus: int, seconds: float = 0, user: str | None = None) -> str:
    deployment = api.request("GET", f"/deployments/name/{FLOW}")["id"]
    variables = {"gpus": gpus, "flow_user": user}
    body = {"parameters": {"seconds": seconds}, "job_variables": variables, "state": {"type": "SCHEDULED"}}
    return str(api.request("POST", f"/deployments/{deployment}/create_flow_run", body)["id"])


def _holder(machines: Machines, node: str, run: str) -> dict[str, Any]:
    """Return what a device's file says of the run that has it, once it has one, and its variables."""
    for _ in range(60):
        found = machines.ssh(node, f"sudo sh -c 'cat {LOCKS}/*.lock'", check=False)
        for line in found.splitlines():
            holder: dict[str, Any] = json.loads(line)
            if holder["run"] == run:
                variables = machines.ssh(node, f"sudo cat /proc/{holder['pid']}/environ").split("\0")
                return holder | {"variables": dict(variable.split("=", 1) for variable in variables if variable)}
        time.sleep(0.5)
    pytest.fail(f"The run {run} has no GPU:\n{found}")


def test_a_run_sees_its_own_gpu_until_it_is_killed_and_the_next_one_waits_for_it(
    machines: Machines, api: PrefectApi, node: str
) -> None:
    first = _start(api, 1, seconds=300)
    holder = _holder(machines, node, first)
    names = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "WORKER_GPU_IDS")
    assert [holder["variables"][name] for name in names] == ["0", "0", "0", "0"]
    # Its limit on the server is that of its own device.
    expect_in_log(api, first, f"CUDA_VISIBLE_DEVICES=0 on {node}")
    # Leases are there for runs of all users.
    second = _start(api, 2, user=FLOW_USER)
    expect_in_log(api, second, rf"waits for 2 GPUs of {node} \(0,1\): it is the next one")
    assert api.request("GET", f"/flow_runs/{second}")["state_type"] == "PENDING"
    machines.ssh(node, f"sudo kill -9 {holder['pid']}")
    expect_in_log(api, second, "has GPU 0, 1, after")
    assert (api.wait(first)["state_type"], api.wait(second)["state_type"]) == ("CRASHED", "COMPLETED")
    assert machines.ssh(node, f"sudo ls {LOCKS}/queue") == ""
    for gpu in (0, 1):
        # A run has its state a moment before its process ends.
        machines.ssh(node, f"sudo flock --wait 10 {LOCKS}/{gpu}.lock true")


# Opens what is called a GPU, and is content with those that it has leased.
OPENS = """
import os
from pathlib import Path

from prefect import flow


@flow(name="opens")
def opens() -> None:
    can = [path.name.removeprefix("nvidia") for path in sorted(Path("/dev").glob("nvidia?")) if _opens(path)]
    locks = sorted(path.name for path in Path("/run/pag/gpus").iterdir())
    leased = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    assert (can, locks) == (leased, [f"{gpu}.lock" for gpu in leased]), (can, locks, leased)


def _opens(path):
    try:
        path.open("rb").close()
    except OSError:
        return False
    return True
"""


@pytest.fixture
def opens(machines: Machines, api: PrefectApi, node: str) -> Iterator[PlacedFlow]:
    """The flow, and what it looks for, on the node."""
    machines.ssh(node, "sudo touch /dev/nvidia0 /dev/nvidia1")
    flow = PlacedFlow(machines, api, "opens", OPENS, "main.py:opens", work_pool="gpu-pool")
    with flow.deployed():
        yield flow
    machines.ssh(node, "sudo rm /dev/nvidia0 /dev/nvidia1")


def test_other_gpus_are_closed_to_a_run(opens: PlacedFlow, machines: Machines, node: str) -> None:
    # While somebody has the first, the run gets the second.
    taken = machines.ssh(node, f"sudo systemd-run --quiet flock {LOCKS}/0.lock sleep 20; sleep 1; echo taken")
    assert taken.strip() == "taken"
    second, both = opens.start_with({}, gpus=1), opens.start_with({}, gpus=2)
    for run in (second, both):
        opens.wait_for(run, "Completed", seconds=90)


def test_a_run_that_wants_more_gpus_than_there_are_fails_in_words(api: PrefectApi, node: str) -> None:
    run = api.wait(_start(api, 3))
    sentence = f"The run wants 3 GPUs, and {node} has 2 (0, 1): ask for fewer with the job variable gpus."
    assert (run["state_type"], run["state"]["message"]) == ("FAILED", sentence)
    expect_in_log(api, run["id"], re.escape(sentence))


def test_a_flow_that_wants_more_gpus_than_any_node_has_is_not_deployed(machines: Machines) -> None:
    result = play(
        machines,
        "prefect-flow-deployment.yml",
        *("-e", "flow_dir=../flows/demo3", "-e", "entrypoint=main.py:my_workflow", "-e", "work_pool=gpu-pool"),
        *("-e", '{"job_variables": {"gpus": 3}}'),
    )
    assert result.returncode != 0
    assert "runs want 3 GPUs, and the nodes of gpu-pool have 2 at most (worker_gpu_ids)" in result.text
    assert result.changes == 0


@pytest.fixture
def pretended(machines: Machines, node: str) -> Iterator[None]:
    """One GPU of NVIDIA on the node, as far as one can see."""
    machines.write(node, "nvidia-smi", PRETENDED)
    machines.ssh(node, "sudo install nvidia-smi /usr/local/bin/nvidia-smi; sudo touch /dev/nvidia0")
    yield
    machines.ssh(node, "sudo rm /usr/local/bin/nvidia-smi /dev/nvidia0; rm nvidia-smi")


@pytest.mark.usefixtures("pretended")
def test_gpus_that_a_node_does_not_have_are_refused_and_its_driver_is_known(machines: Machines, node: str) -> None:
    result = play(machines, "preflight.yml", "--limit", node)
    assert result.returncode != 0
    assert "has no GPU 1, which worker_gpu_ids names, but 0 (0 is Pretended A100, GPU-11111111-2222)" in result.text
    found = next(entry for entry in document(machines)["nodes"] if entry["name"] == node)
    assert found["gpus"] == {
        "devices": ["0"],
        "gpus": [{"id": "0", "name": "Pretended A100", "uuid": "GPU-11111111-2222"}],
        "driver": "535.104.05",
        "cuda": "12.2",
        "amd": 0,
    }
    package = {"name": "torch", "record": {"name": "torch", "depends": ["python", "__cuda >=12.4"]}}
    arguments = json.dumps({"environment": {"conda": [package]}})
    said = machines.ssh(
        CONTROLLER, f"cd {DIRECTORY} && ansible -i inventory.yml {node} --one-line -m gpu_facts -a '{arguments}'"
    )
    assert "torch needs CUDA >=12.4, and the node's driver is for 12.2" in said
