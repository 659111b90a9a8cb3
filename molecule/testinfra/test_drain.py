"""Workers drain, and no run is lost silently: for maintenance, when a worker is restarted, and when it is killed."""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from cluster_site import CPU_WORKERS, Secrets
from guide import CONTROLLER
from machines import Machines
from prefect_api import ApiError, PrefectApi, worker_of
from testinfra.host import Host

On = Callable[[str], Host]

UNIT = "prefect-worker-cpu"
MARKER = "/etc/prefect/worker-cpu.drained"
TAG = "rerun-when-lost"

PLACE = "/opt/prefect/drill"
GATE = f"{PLACE}/gate-is-open"
MAIN = f'''
import subprocess
import time
from pathlib import Path

from prefect import flow


@flow(name="maintenance")
def drill() -> None:
    subprocess.Popen(["setsid", "nohup", "sleep", "86399"])
    for _ in range(600):
        if Path("{GATE}").exists():
            break
        time.sleep(0.1)
'''


@dataclass(frozen=True)
class Drill:
    """A flow whose runs last until the gate is opened, and leave a program in the background on their node."""

    machines: Machines
    api: PrefectApi
    deployment: str

    def start(self, *tags: str) -> str:
        """Start a run and return its id once it is Running."""
        body = {"state": {"type": "SCHEDULED"}, "tags": list(tags)}
        run = str(self.api.request("POST", f"/deployments/{self.deployment}/create_flow_run", body)["id"])
        self.wait_for(run, "Running")
        return run

    def get(self, run: str) -> dict[str, Any]:
        """Return what the server knows of a run."""
        return dict(self.api.request("GET", f"/flow_runs/{run}"))

    def node(self, run: str) -> str:
        """Return the node that has a run."""
        name = worker_of(self.get(run))
        assert name is not None
        return name

    def wait_for(self, run: str, *names: str, seconds: float = 40) -> dict[str, Any]:
        """Wait until a run's state has one of the names."""
        deadline = time.monotonic() + seconds
        while (found := self.get(run))["state_name"] not in names:
            assert time.monotonic() < deadline, found["state"]
            time.sleep(0.2)
        return found

    def gate(self, opened: bool) -> None:
        """Open or close the gate on all nodes."""
        for name in CPU_WORKERS:
            self.machines.ssh(name, f"sudo {'touch' if opened else 'rm -f'} {GATE}")


@pytest.fixture(scope="module")
def api(machines: Machines, secrets: Secrets) -> Iterator[PrefectApi]:
    """The server's API, for the whole module."""
    with machines.tunnel() as port:
        yield PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth)


@pytest.fixture(scope="module")
def drill(machines: Machines, api: PrefectApi) -> Iterator[Drill]:
    """The flow, in the base environment."""
    for name in CPU_WORKERS:
        machines.ssh(name, f"sudo mkdir -p {PLACE} && sudo tee {PLACE}/main.py >/dev/null", stdin=MAIN)
    flow = api.request("POST", "/flows/", {"name": "maintenance"})
    deployment = api.request(
        "POST",
        "/deployments/",
        {
            "name": "drill",
            "flow_id": flow["id"],
            "work_pool_name": "cpu-pool",
            "entrypoint": "main.py:drill",
            "path": PLACE,
            "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": PLACE}}],
            "job_variables": {"command": "/opt/prefect/pixi-env/run python -m prefect.engine"},
        },
    )
    yield Drill(machines, api, deployment["id"])
    with contextlib.suppress(ApiError):
        api.request("DELETE", f"/flows/{flow['id']}")
    for name in CPU_WORKERS:
        machines.ssh(name, f"sudo rm -rf {PLACE} {MARKER} && sudo systemctl start {UNIT}")
    # A run's end takes along what it started.
    deadline = time.monotonic() + 30
    while left := {name: found for name in CPU_WORKERS if (found := _background(machines, name))}:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def _play(machines: Machines, *arguments: str) -> tuple[int, str]:
    """Run a playbook on the controller; return its exit code and what it printed."""
    command = f"cd pag-software-bundle/ansible && ansible-playbook -i inventory.yml {shlex.join(arguments)}"
    finished = subprocess.run(
        ["ssh", "-F", machines.ssh_config, CONTROLLER, command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return finished.returncode, finished.stdout


def _changes(output: str) -> int:
    return sum(int(number) for number in re.findall(r"^\S+\s+: ok=\d+\s+changed=(\d+)", output, re.MULTILINE))


def _background(machines: Machines, node: str) -> list[str]:
    """Return the programs on a node that runs have left in the background."""
    return machines.ssh(node, "pgrep --full '^sleep 86399' || test $? = 1").split()


def test_whoever_says_no_node_is_refused(machines: Machines, on: On) -> None:
    code, output = _play(machines, "drain.yml")
    assert code != 0
    assert "Say which nodes: --limit NODE" in " ".join(output.split())
    assert not any(on(name).file(MARKER).exists for name in CPU_WORKERS)


@pytest.fixture(scope="module")
def drained(machines: Machines, drill: Drill, on: On) -> tuple[str, str, str]:
    """Drain a node while it has a run: the node, the run, and one that was started meanwhile."""
    drill.gate(opened=False)
    first = drill.start()
    node = drill.node(first)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        played = pool.submit(_play, machines, "drain.yml", "--limit", node)
        deadline = time.monotonic() + 60
        while not on(node).file(MARKER).exists:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        second = drill.start()
        assert drill.get(first)["state_name"] == "Running"
        drill.gate(opened=True)
        code, output = played.result()
    assert code == 0, output[-3000:]
    assert f"{node} is drained" in output
    return node, first, second


def test_draining_lets_runs_end(drained: tuple[str, str, str], drill: Drill, on: On) -> None:
    node, first, _ = drained
    assert drill.get(first)["state_name"] == "Completed"
    assert on(node).file(MARKER).exists
    assert not on(node).service(UNIT).is_running


def test_the_other_worker_goes_on(drained: tuple[str, str, str], drill: Drill) -> None:
    node, _, second = drained
    assert drill.wait_for(second, "Completed")["state_name"] == "Completed"
    assert drill.node(second) != node


def test_a_drained_worker_does_not_start(drained: tuple[str, str, str], machines: Machines, on: On) -> None:
    machines.ssh(drained[0], f"sudo systemctl start {UNIT}")
    assert not on(drained[0]).service(UNIT).is_running


def test_draining_again_changes_nothing(drained: tuple[str, str, str], machines: Machines) -> None:
    code, output = _play(machines, "drain.yml", "--limit", drained[0])
    assert (code, _changes(output)) == (0, 0), output[-3000:]


def test_resuming_brings_it_back(drained: tuple[str, str, str], machines: Machines, on: On) -> None:
    node = drained[0]
    code, output = _play(machines, "resume.yml", "--limit", node)
    assert code == 0, output[-3000:]
    assert not on(node).file(MARKER).exists
    assert on(node).service(UNIT).is_running


def test_a_restart_loses_nothing(drill: Drill, machines: Machines) -> None:
    drill.gate(opened=False)
    run = drill.start()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        restarted = pool.submit(machines.ssh, drill.node(run), f"sudo systemctl restart {UNIT}")
        time.sleep(1)
        assert (drill.get(run)["state_name"], restarted.done()) == ("Running", False)
        drill.gate(opened=True)
        restarted.result()
    assert drill.get(run)["state_name"] == "Completed"


def test_a_worker_vouches_for_a_run_as_soon_as_it_begins(drill: Drill) -> None:
    """Sooner than in its next round, after up to 30 s: who dies before has not been heard of, and is not missed."""
    drill.gate(opened=False)
    run = drill.start()
    wanted = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "related": {"id": [f"prefect.worker.process.{drill.node(run)}"]},
        "resource": {"id": [f"prefect.flow-run.{run}"]},
    }
    deadline = time.monotonic() + 10
    while not (events := drill.api.request("POST", "/events/filter", {"filter": wanted})["events"]):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    began = drill.get(run)["start_time"]
    assert datetime.fromisoformat(events[-1]["occurred"]) < datetime.fromisoformat(began) + timedelta(seconds=5)
    drill.gate(opened=True)
    drill.wait_for(run, "Completed")


def test_runs_of_a_killed_worker_are_not_lost_silently(drill: Drill, machines: Machines) -> None:
    drill.gate(opened=False)
    plain, again = drill.start(), drill.start(TAG)
    nodes = {drill.node(plain), drill.node(again)}
    for node in nodes:
        assert _background(machines, node)
        machines.ssh(node, f"sudo kill -9 $(systemctl show --property=MainPID --value {UNIT})")
    deadline = time.monotonic() + 10
    while any(_background(machines, node) for node in nodes):
        assert time.monotonic() < deadline
    found = drill.wait_for(plain, "Crashed")
    assert found["state"]["message"].startswith(f"Lost: the worker on {drill.node(plain)}, or its machine, ended")
    # It ran, it was lost, it runs once more.
    drill.gate(opened=True)
    assert drill.wait_for(again, "Completed")["run_count"] == 2
    assert drill.get(plain)["state_name"] == "Crashed"
