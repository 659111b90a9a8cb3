"""A worker, and with it all runs of its node, outlives what flows, the server and the node do to it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from cluster_site import Secrets
from machines import Machines
from placed_flow import PlacedFlow
from prefect_api import PrefectApi
from test_flows import expect_in_log

NODE = "pag-worker-1"
WORKER = "prefect-worker-cpu.service"
RECORDS = "/var/lib/prefect-worker-cpu/runs"
# Who imports it and is no run's engine is ended.
MAIN = """
import os, signal, sys, time

if "pag_worker" in sys.modules:
    sys.exit("This is no place for a flow.")

from prefect import flow


def cancelled(flow, flow_run, state):
    assert os.environ["HOME"].startswith("/opt/prefect/runs/"), "This hook has no box."


async def crashed(flow, flow_run, state):
    assert os.environ["HOME"].startswith("/opt/prefect/runs/"), "This hook has no box."


@flow(name="survived", log_prints=True, on_cancellation=[cancelled], on_crashed=[crashed])
def survive(seconds: float = 0, kill: bool = False) -> None:
    seen = {name: os.environ.get(name) for name in ("PAG_GPU_LEASE", "LD_LIBRARY_PATH")}
    print(f"The run sees {seen}.")
    time.sleep(seconds)
    if kill:
        os.kill(os.getpid(), signal.SIGKILL)
"""


class Survived(PlacedFlow):
    """The flow, and the worker of the one node that has its runs."""

    def start(self, seconds: float = 0, **variables: object) -> str:
        """Start a run and return its id."""
        return self.start_with({"seconds": seconds}, **variables)

    def worker(self) -> str:
        """Return the process of the worker; it is another one when it has ended meanwhile."""
        return self.machines.ssh(NODE, f"systemctl show --value --property=MainPID,NRestarts {WORKER}")

    def do(self, command: str) -> None:
        """Do something on the node."""
        self.machines.ssh(NODE, f"sudo sh -c '{command}'")

    def says(self, sentence: str, since: float, seconds: float = 60) -> None:
        """Wait until the worker has said that, after a time in seconds since the epoch."""
        deadline = time.monotonic() + seconds
        said = f"sudo journalctl -u {WORKER} --since=@{since:.0f} --output=cat"
        while sentence not in (log := self.machines.ssh(NODE, said)):
            assert time.monotonic() < deadline, log
            time.sleep(1)


@pytest.fixture(scope="module")
def api(machines: Machines, secrets: Secrets) -> Iterator[PrefectApi]:
    """The server's API, for the whole module."""
    with machines.tunnel() as port:
        yield PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth)


@pytest.fixture(scope="module")
def flow(machines: Machines, api: PrefectApi) -> Iterator[Survived]:
    """The flow, on one node: no other worker takes its runs."""
    flow = Survived(machines, api, "survived", MAIN, "main.py:survive")
    others = [node for node in flow.nodes if node != NODE]
    for node in others:
        machines.ssh(node, f"sudo systemctl stop {WORKER}")
    with flow.deployed():
        yield flow
    for node in others:
        machines.ssh(node, f"sudo systemctl start {WORKER}")


@pytest.fixture
def beside(flow: Survived) -> Iterator[str]:
    """A run that goes on meanwhile, on the same worker, which is the same one afterwards."""
    before = flow.worker()
    run = flow.start(3600)
    flow.wait_for(run, "Running")
    yield run
    assert flow.worker() == before
    assert flow.api.request("GET", f"/flow_runs/{run}")["state_name"] == "Running"
    flow.cancel(run)


@pytest.mark.usefixtures("beside")
def test_no_flow_is_imported_into_it(flow: Survived) -> None:
    killed = flow.start_with({"kill": True})
    flow.wait_for(killed, "Crashed")
    cancelled = flow.start(3600)
    flow.wait_for(cancelled, "Running")
    flow.cancel(cancelled)
    assert flow.wait_for(flow.start(), "Completed", "Crashed")["state_name"] == "Completed"


@pytest.mark.usefixtures("beside")
def test_hooks_are_called_in_boxes_of_their_own(flow: Survived) -> None:
    run = flow.start(3600)
    flow.wait_for(run, "Running")
    flow.cancel(run)
    log = expect_in_log(flow.api, run, "Hook 'cancelled' finished running successfully")
    assert "'crashed'" not in log
    # Nobody is left in its own box to call any.
    killed = flow.start_with({"kill": True})
    flow.wait_for(killed, "Crashed")
    log = expect_in_log(flow.api, killed, "Hook 'crashed' finished running successfully")
    assert "'cancelled'" not in log


@pytest.mark.usefixtures("beside")
def test_variables_give_no_lease_and_reach_the_run_alone(flow: Survived) -> None:
    run = flow.start(env={"PAG_GPU_LEASE": "0=1", "LD_LIBRARY_PATH": "/opt/nothing"})
    flow.wait_for(run, "Completed")
    expect_in_log(flow.api, run, "'PAG_GPU_LEASE': None, 'LD_LIBRARY_PATH': '/opt/nothing'")


@pytest.mark.usefixtures("beside")
def test_a_run_that_is_scheduled_again_while_it_has_a_process(flow: Survived) -> None:
    run = flow.start(20)
    flow.wait_for(run, "Running")
    state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Again."}
    flow.api.request("POST", f"/flow_runs/{run}/set_state", {"state": state, "force": True})
    flow.wait_for(run, "Completed")


@pytest.mark.usefixtures("beside")
def test_records_that_cannot_be_written(flow: Survived) -> None:
    began = time.time()
    flow.do(f"chown root {RECORDS}")
    try:
        flow.says("its records cannot be written", began)
        waiting = flow.start()
        time.sleep(5)
        assert flow.api.request("GET", f"/flow_runs/{waiting}")["state_type"] == "SCHEDULED"
    finally:
        flow.do(f"chown --reference={RECORDS}/.. {RECORDS}")
    flow.wait_for(waiting, "Completed")


def test_a_node_that_cannot_start_runs_loses_one_and_no_more(flow: Survived) -> None:
    began = time.time()
    flow.do("systemctl stop pag-run.socket pag-run.service")
    try:
        flow.crashed(flow.start(), "Lost: the run was not started: /run/pag/run.sock does not answer")
        waiting = flow.start()
        flow.says("this node could not start the last one", began)
        time.sleep(5)
        assert flow.api.request("GET", f"/flow_runs/{waiting}")["state_type"] == "SCHEDULED"
    finally:
        flow.do("systemctl start pag-run.socket")
    flow.wait_for(waiting, "Completed", seconds=120)


def test_a_run_ends_with_what_waits_for_its_unit(flow: Survived) -> None:
    run = flow.start(3600)
    flow.wait_for(run, "Running")
    _, unit = flow.unit_of(run)
    # Not the shell that says this.
    flow.do(f"pkill --signal KILL --full [u]nit={unit}")
    flow.wait_for(run, "Crashed")
    assert flow.machines.ssh(NODE, f"systemctl list-units --all --plain --no-legend {unit}") == ""
