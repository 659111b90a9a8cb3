"""One short fault of each kind: nothing is lost, and no hand is needed. The full list is in test_long_faults."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_site import CPU_WORKERS, SERVER, Secrets
from faults import AGAIN, Faults
from machines import Machines
from prefect_api import PrefectApi, worker_of


@pytest.fixture(scope="module")
def faults(machines: Machines, secrets: Secrets) -> Iterator[Faults]:
    """The cluster, with the flow that waits."""
    with machines.tunnel() as port:
        cluster = Faults(machines, PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth))
        cluster.deploy()
        yield cluster
        cluster.forget()


def test_a_worker_whose_clock_is_wrong_is_named(faults: Faults, tmp_path: Path) -> None:
    faults.shift_clock(CPU_WORKERS[0], 600, tmp_path)
    try:
        refused = faults.play("main.yml", "--tags", "prefect-worker", "--check")
    finally:
        faults.set_clock_right(CPU_WORKERS[0])
    assert refused.returncode != 0
    named = set(re.findall(r"(\S+): its clock is (\d+) s ahead of the controller's", " ".join(refused.stdout.split())))
    assert {(name, round(int(seconds), -1)) for name, seconds in named} == {(CPU_WORKERS[0], 600)}, refused.stdout


def test_runs_outlive_a_killed_server_and_a_restarted_database(faults: Faults) -> None:
    runs = faults.start(faults.some, "server")
    faults.working(runs)
    faults.signal(SERVER, "prefect-server.service")
    faults.machines.ssh(SERVER, "sudo systemctl restart postgresql.service")
    # They end while there is no server.
    faults.open("server")
    faults.expect_completed(runs, timeout=60)


def test_a_run_that_ends_while_its_network_is_cut_is_done(faults: Faults) -> None:
    runs = faults.start(faults.some, "cut")
    cut = [run["id"] for run in faults.working(runs) if worker_of(run) == CPU_WORKERS[0]]
    assert cut
    faults.machines.testbed("cut", CPU_WORKERS[0], SERVER)
    try:
        faults.open("cut")
        time.sleep(8)
        assert {run["state_type"] for run in faults.runs(cut)} == {"RUNNING"}
    finally:
        faults.machines.testbed("mend")
    faults.expect_completed(runs, timeout=90)


def test_runs_of_a_killed_worker_end(faults: Faults) -> None:
    plain, again = faults.start(3, "worker"), faults.start(3, "worker", AGAIN)
    lost = [run["id"] for run in faults.working([*plain, *again]) if worker_of(run) == CPU_WORKERS[0]]
    assert lost
    faults.signal(CPU_WORKERS[0], "prefect-worker-cpu.service")
    faults.open("worker")
    faults.expect_lost(plain, again, timeout=90)


def test_everything_is_well_afterwards(faults: Faults) -> None:
    # Slots of processes that died are given back when their lease is over, after five minutes: see test_long_faults.
    faults.expect_well(slots_timeout=None)
