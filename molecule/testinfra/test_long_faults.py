"""The faults that a cluster has to live with: each ends with nothing lost and no hand needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from cluster_site import CPU_WORKERS, SERVER, Secrets, inventory_of
from faults import AGAIN, ANSIBLE, Faults, eventually
from guide import CONTROLLER
from machines import Machines, MachinesError
from placed_flow import PlacedFlow
from prefect_api import PrefectApi, worker_of
from scenario_log import report

# So that twenty runs can be under way at the same time.
_LIMIT = 10
_FILL = "/var/tmp/pag-fill"  # on the server, on the disk of the database

# How long a flow has nobody say a word; longer than the server waits for one (prefect_server_silent_seconds).
_SILENT_SECONDS = 240
_BUSY = f"""
import ctypes
import time

from prefect import flow


@flow
def busy(how):
    end = time.monotonic() + {_SILENT_SECONDS}
    if how == "C":
        # As an extension that never gives the interpreter's lock back.
        ctypes.PyDLL(None).sleep({_SILENT_SECONDS})
    while time.monotonic() < end:
        pass
"""


@pytest.fixture(scope="module")
def faults(machines: Machines, secrets: Secrets) -> Iterator[Faults]:
    """The cluster, with the flow that waits, and workers for ten runs each."""
    with machines.tunnel() as port:
        cluster = Faults(machines, PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth), _LIMIT)
        machines.write(CONTROLLER, f"{ANSIBLE}/inventory.yml", inventory_of(machines, cpu_worker_limit=_LIMIT))
        played = cluster.play("main.yml", "--tags", "prefect-worker")
        assert played.returncode == 0, played.stdout[-3000:]
        cluster.deploy()
        yield cluster
        cluster.forget()


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say what was seen, with the seconds since the test began, into the scenario's log."""
    began = time.monotonic()

    def say(text: str) -> None:
        report(f"{request.node.name}: {time.monotonic() - began:4.0f} s  {text}")

    return say


Seen = Callable[[str], None]


def test_server_killed_while_twenty_runs_are_going_on(faults: Faults, seen: Seen) -> None:
    runs = faults.start(2 * _LIMIT, "server")
    faults.working(runs, timeout=300)
    seen("20 runs work, kill -9 of the server")
    faults.signal(SERVER, "prefect-server.service")
    faults.open("server")
    eventually(lambda: faults.api.request("GET", "/health"), 60, "the server does not answer")
    seen("the server answers again")
    faults.expect_completed(runs, timeout=180)
    seen("20 runs completed, each once")
    faults.expect_well()


def test_slots_outlive_the_server_and_come_back_from_runs_that_died(faults: Faults, seen: Seen) -> None:
    runs = faults.start(faults.some, "slots")
    dead = [run["id"] for run in faults.working(runs, 180) if worker_of(run) == CPU_WORKERS[0]]
    alive = [run for run in runs if run not in dead]
    assert dead
    assert alive
    for run in dead:
        faults.signal(CPU_WORKERS[0], f"'flow-run-{run}-*'")
    seen(f"{len(dead)} of {len(runs)} runs died with their slots, the server is restarted")
    faults.machines.ssh(SERVER, "sudo systemctl restart prefect-server.service")
    eventually(lambda: faults.api.request("GET", "/health"), 60, "the server does not answer")
    assert faults.slots() == len(runs)
    eventually(lambda: faults.slots() == len(alive), 400, "slots of runs that died are still taken")
    seen("they came back, and the others have theirs")
    faults.open("slots")
    faults.expect_completed(alive, timeout=60)
    eventually(lambda: faults.slots() == 0, 10, "slots are still taken")
    assert {run["state_name"] for run in faults.runs(dead)} == {"Crashed"}
    faults.expect_well()


def test_flows_that_say_nothing_for_long_are_not_ended(faults: Faults, seen: Seen) -> None:
    """In Python, where threads still have their turn now and then, and in C, where none has."""
    flow = PlacedFlow(faults.machines, faults.api, "faults-busy", _BUSY, "main.py:busy")
    with flow.deployed():
        runs = [flow.start_with({"how": how}) for how in ("Python", "C")]
        for run in runs:
            flow.wait_for(run, "Running")
        seen(f"two runs say nothing for {_SILENT_SECONDS} s")
        for run in runs:
            # In any other final state it would never be.
            flow.wait_for(run, "Completed", seconds=_SILENT_SECONDS + 120)
        seen("both completed")


def test_worker_killed(faults: Faults, seen: Seen) -> None:
    plain, again = faults.start(faults.limit, "worker"), faults.start(faults.limit, "worker", AGAIN)
    lost = [run for run in faults.working([*plain, *again], 300) if worker_of(run) == CPU_WORKERS[0]]
    assert lost
    seen(f"{len(lost)} of 20 runs on {CPU_WORKERS[0]}, kill -9 of its worker and of them")
    faults.signal(CPU_WORKERS[0], "prefect-worker-cpu.service")
    faults.open("worker")
    faults.expect_lost(plain, again, timeout=300)
    seen("all ended")
    faults.expect_well(slots_timeout=400)


def test_machine_powered_off_with_five_runs_and_back_after_three_minutes(faults: Faults, seen: Seen) -> None:
    # Only the one machine takes runs: the other one is to find them when they are lost.
    faults.machines.ssh(CPU_WORKERS[1], "sudo systemctl stop prefect-worker-cpu.service")
    plain, again = faults.start(3, "machine"), faults.start(2, "machine", AGAIN)
    faults.working([*plain, *again], 120)
    faults.machines.ssh(CPU_WORKERS[1], "sudo systemctl start prefect-worker-cpu.service")
    seen(f"5 runs on {CPU_WORKERS[0]}, its plug is pulled")
    faults.machines.testbed("kill", CPU_WORKERS[0])
    faults.open("machine", CPU_WORKERS[1])
    time.sleep(180)
    seen(f"after 3 minutes: {sorted(run['state_name'] for run in faults.runs([*plain, *again]))}; power is back")
    faults.machines.testbed("start", CPU_WORKERS[0])
    faults.open("machine")
    faults.expect_lost(plain, again, timeout=300)
    seen("all ended")
    faults.expect_well(slots_timeout=400)


def test_network_cut_for_five_minutes_in_the_middle_of_a_run(faults: Faults, seen: Seen) -> None:
    runs = faults.start(faults.some, "cut")
    cut = [run["id"] for run in faults.working(runs, 180) if worker_of(run) == CPU_WORKERS[0]]
    assert cut
    seen(f"{len(cut)} runs on {CPU_WORKERS[0]}, its network to the server is cut")
    faults.machines.testbed("cut", CPU_WORKERS[0], SERVER)
    try:
        time.sleep(150)
        faults.open("cut")
        time.sleep(150)
        seen(f"after 5 minutes: {sorted(run['state_name'] for run in faults.runs(cut))}; the network is mended")
    finally:
        faults.machines.testbed("mend")
    mended = time.time()
    said = (
        f"sudo journalctl --unit=prefect-worker-cpu --output=cat --since=@{mended:.0f} | grep 'The worker takes runs'"
    )
    # Its pauses between two attempts do not become as long as the outage.
    eventually(lambda: faults.machines.ssh(CPU_WORKERS[0], said), 60, "the worker has not come back")
    seen(f"its worker takes runs again, {time.time() - mended:.0f} s after that")
    faults.expect_completed(runs, timeout=600)
    seen("all completed, each once")
    faults.expect_well(slots_timeout=400)


def test_database_restarted(faults: Faults, seen: Seen) -> None:
    runs = faults.start(8, "database-restarted")
    faults.working(runs, 120)
    seen("8 runs work, PostgreSQL is restarted")
    faults.machines.ssh(SERVER, "sudo systemctl restart postgresql.service")
    faults.open("database-restarted")
    faults.expect_completed(runs, timeout=120)
    seen("8 runs completed, each once")
    faults.expect_well()


def test_database_killed(faults: Faults, seen: Seen) -> None:
    runs = faults.start(8, "database-killed")
    faults.working(runs, 120)
    seen("8 runs work, kill -9 of PostgreSQL")
    faults.signal(SERVER, "postgresql@*.service")
    faults.open("database-killed")
    faults.expect_completed(runs, timeout=180)
    seen("8 runs completed, each once")
    faults.expect_well()


def test_disk_of_the_server_full_and_freed(faults: Faults, seen: Seen) -> None:
    runs = faults.start(8, "disk")
    faults.working(runs, 120)
    _fill(faults.machines)
    try:
        eventually(lambda: not _database_writes(faults.machines), 60, "the database still writes on the full disk")
        seen("8 runs work, the disk is full and the database cannot write")
        faults.open("disk")
        time.sleep(120)
        assert not _database_writes(faults.machines)
        seen("two minutes later there is room again")
    finally:
        faults.machines.ssh(SERVER, f"sudo rm -f {_FILL} {_FILL}-rest")
    faults.expect_completed(runs, timeout=400)
    seen("8 runs completed, each once")
    faults.expect_well(slots_timeout=400)


def _fill(machines: Machines) -> None:
    """Leave no block free on the server's disk; it must have one of its own."""
    mount = machines.ssh(SERVER, "df --output=size -B1 /var/lib/postgresql | tail -1")
    assert int(mount) < 16 * 1024**3, "the server needs a disk of its own, or this would fill the host's"
    for file, size in ((_FILL, "1M"), (f"{_FILL}-rest", "4k")):
        machines.ssh(SERVER, f"sudo dd if=/dev/zero of={file} bs={size} status=none", check=False)


def _database_writes(machines: Machines) -> bool:
    """Whether the database can write: more than fits into the segment of its log that is there already."""
    statement = "SELECT txid_current(); SELECT pg_switch_wal();"
    try:
        for _ in range(4):
            machines.ssh(SERVER, f"cd / && sudo -u postgres psql -qc '{statement}'")
    except MachinesError:
        return False
    return True
