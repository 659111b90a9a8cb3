"""``pag status``: one screen that tells what is wrong, the same for machines, and an exit code."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cluster_site import CPU_WORKERS, SERVER, Secrets
from guide import CONTROLLER
from machines import Machines
from prefect_api import PrefectApi

SCHEMA = Path(__file__).resolve().parents[2] / "ansible/roles/status/files/status.schema.json"
COLUMNS = 110
WORKER = CPU_WORKERS[0]
UNIT = "prefect-worker-cpu.service"
PLANTED = "planted-in-a-log-7f3a"


@dataclass(frozen=True)
class Said:
    """What ``pag status`` printed, and how it ended."""

    returncode: int
    output: str
    errors: str
    seconds: float


def status(machines: Machines, *arguments: str, directory: str = "") -> Said:
    started = time.monotonic()
    command = f"cd {directory or '~'} && pag status {' '.join(arguments)}"
    finished = subprocess.run(
        ["ssh", "-F", machines.ssh_config, CONTROLLER, command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return Said(finished.returncode, finished.stdout, finished.stderr, time.monotonic() - started)


def document(machines: Machines, *arguments: str) -> dict[str, Any]:
    said = status(machines, "-o", "json", *arguments)
    found: dict[str, Any] = json.loads(said.output)
    assert said.returncode == (0 if found["well"] else 1), said
    return found


def problems(found: dict[str, Any]) -> list[str]:
    return [f"{problem['where']}: {problem['what']}" for problem in found["problems"]]


@pytest.fixture(scope="module")
def api(machines: Machines, secrets: Secrets) -> Iterator[PrefectApi]:
    """The server's API, for the whole module."""
    with machines.tunnel() as port:
        yield PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth)


def test_a_cluster_that_is_well_says_so_on_one_screen(machines: Machines, secrets: Secrets) -> None:
    said = status(machines)
    assert said.returncode == 0, said
    lines = said.output.splitlines()
    assert "ALL IS WELL" in lines[0]
    assert len(lines) <= 40
    assert max(map(len, lines)) <= COLUMNS
    assert said.output.isascii()
    for name in (SERVER, *CPU_WORKERS):
        assert name in said.output
    assert "postgresql server nginx" in said.output
    for secret in (secrets.database_password, secrets.basic_auth.partition(":")[2]):
        assert secret not in said.output


def test_machines_get_the_same_by_a_schema(machines: Machines) -> None:
    found = document(machines)
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    assert found["well"]
    nodes = {node["name"]: node for node in found["nodes"]}
    assert set(nodes) == {SERVER, *CPU_WORKERS}
    link = machines.ssh(SERVER, "readlink -f /opt/prefect/pixi-env").strip()
    environment = nodes[SERVER]["environment"]
    assert link.endswith(f"/{environment['name']}-{environment['digest']}")
    assert environment["prefect"] == found["prefect"]["version"]
    assert {pool["name"] for pool in found["prefect"]["pools"]} == {"cpu-pool", "gpu-pool"}
    units = {unit["name"]: unit["active"] for unit in nodes[WORKER]["units"]}
    assert units[UNIT] == "active"


@pytest.fixture
def trouble(machines: Machines, api: PrefectApi) -> Iterator[str]:
    """A worker that stands still, a late run, and an error in the journal that has a secret in it; the run's name."""
    machines.ssh(WORKER, f"sudo systemctl stop {UNIT}")
    pool = "status-pool"
    api.request("POST", "/work_pools/", {"name": pool, "type": "process"})
    flow = api.request("POST", "/flows/", {"name": "status-flow"})["id"]
    body = {"name": "late", "flow_id": flow, "work_pool_name": pool, "entrypoint": "none.py:none", "path": "/nowhere"}
    deployment = api.request("POST", "/deployments/", body)["id"]
    run = api.request("POST", f"/deployments/{deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}})
    machines.ssh(
        SERVER,
        "sudo systemd-run --quiet --wait --unit=pag-status-test.service --property=SyslogLevel=err "
        f"/bin/echo 'cannot log in with password={PLANTED}'",
    )
    machines.ssh(SERVER, f"printf '[Service]\\nExecStart=/bin/false\\n' | {_unit('pag-status-failed')}")
    machines.ssh(SERVER, "sudo systemctl start pag-status-failed.service", check=False)
    try:
        yield str(run["name"])
    finally:
        machines.ssh(
            SERVER,
            "sudo systemctl reset-failed pag-status-failed.service; sudo systemctl daemon-reload; "
            "sudo rm /etc/systemd/system/pag-status-failed.service; sudo systemctl daemon-reload",
        )
        api.request("DELETE", f"/flow_runs/{run['id']}")
        api.request("DELETE", f"/deployments/{deployment}")
        api.request("DELETE", f"/flows/{flow}")
        api.request("DELETE", f"/work_pools/{pool}")
        machines.ssh(WORKER, f"sudo systemctl start {UNIT}")


def _unit(name: str) -> str:
    return f"sudo tee /etc/systemd/system/{name}.service > /dev/null && sudo systemctl daemon-reload"


def test_what_is_wrong_comes_first_and_is_named(machines: Machines, api: PrefectApi, trouble: str) -> None:
    # The server marks a run late some seconds after its time.
    query = {"flow_runs": {"state": {"name": {"any_": ["Late"]}}}}
    for _ in range(60):
        if api.request("POST", "/flow_runs/count", query):
            break
        time.sleep(1)
    said = status(machines)
    assert said.returncode == 1, said
    marked = [line for line in said.output.splitlines() if line.startswith("!!")]
    assert said.output.splitlines().index(marked[0]) <= 4
    assert any(WORKER in line and f"{UNIT} is inactive" in line for line in marked), said.output
    assert any("1 run is late" in line and trouble in line for line in marked), said.output
    assert any(SERVER in line and "pag-status-failed.service failed" in line for line in marked), said.output
    assert "worker-cpu:INACTIVE" in said.output
    assert PLANTED not in said.output


def test_a_drained_worker_is_no_problem(machines: Machines) -> None:
    marker = "/etc/prefect/worker-cpu.drained"
    machines.ssh(WORKER, f"sudo touch {marker} && sudo systemctl stop {UNIT}")
    try:
        found = document(machines)
        assert found["well"], problems(found)
        assert any(notice["where"] == WORKER and "drained" in notice["what"] for notice in found["notices"])
    finally:
        machines.ssh(WORKER, f"sudo rm {marker} && sudo systemctl start {UNIT}")


def test_a_node_that_cannot_be_reached_is_named_and_stops_nobody(machines: Machines) -> None:
    machines.testbed("stop", WORKER)
    try:
        said = status(machines, "-o", "json")
        found = json.loads(said.output)
        assert said.returncode == 1
        assert any(problem.startswith(f"{WORKER}: cannot be reached") for problem in problems(found)), problems(found)
        assert [node["name"] for node in found["nodes"] if not node["reachable"]] == [WORKER]
        assert found["prefect"]["answers"]
    finally:
        machines.testbed("start", WORKER)
    _wait_until_well(machines)


def _wait_until_well(machines: Machines) -> None:
    for _ in range(20):
        said = status(machines)
        if said.returncode == 0:
            return
        time.sleep(1)
    raise AssertionError(said.output)


def test_who_cannot_find_out_says_so(machines: Machines) -> None:
    said = status(machines, "-e", "pag_root=", "--limit", "nobody")
    assert said.returncode == 2, said
    assert "status.yml did not get to its end" in said.errors
    elsewhere = machines.ssh(CONTROLLER, "cd /tmp && PAG_ANSIBLE=/nowhere pag status; echo ends with $?", check=False)
    assert "ends with 2" in elsewhere


def test_playbooks_are_commands(machines: Machines) -> None:
    listed = machines.ssh(CONTROLLER, "pag --help")
    assert "status" in listed
    assert "Compare what is installed" in listed
    assert "inventory " not in listed.partition("playbooks in")[2]
    assert "exit code" not in machines.ssh(CONTROLLER, "pag have --syntax-check")
