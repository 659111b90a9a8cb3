"""Leases of GPUs: no device has two runs, none is lost, and runs have their turn in the order in which they came."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import ANSIBLE

WORKER = ANSIBLE / "roles/prefect_worker/files/worker"
sys.path.insert(0, str(WORKER))

from pag_worker.gpus import Gpus, TooFewGpusError, environment, wrapper  # noqa: E402

# Says which devices it has, and since when, and keeps them until it is told to end, or for some time.
RUN = """
import json, os, sys, time
directory, name, seconds = sys.argv[1:]
ids = [gpu for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
held = [json.load(open(f"{directory}/{gpu}.lock")) for gpu in ids]
def record(what, at):
    line = json.dumps({"run": name, "what": what, "at": at, "ids": ids, "pid": os.getpid()}) + "\\n"
    descriptor = os.open(f"{directory}/record", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)
record("start", held[0]["since"] if held else time.time_ns())
while seconds == "-" and not os.path.exists(f"{directory}/end-{name}"):
    time.sleep(0.01)
time.sleep(0 if seconds == "-" else float(seconds))
record("end", time.time_ns())
"""


def start(directory: Path, name: str, count: int, seconds: str = "-") -> subprocess.Popen[bytes]:
    """Start a run that wants GPUs, as a worker does."""
    run = [sys.executable, "-I", "-S", "-c", RUN, str(directory), name, seconds]
    with (directory / f"said-{name}").open("wb") as said:
        return subprocess.Popen([*wrapper(["0", "1"], count, directory), "--", *run], stderr=said, env=_variables())


def _variables() -> dict[str, str]:
    return {"PATH": os.environ["PATH"]}


def record(directory: Path) -> list[dict[str, Any]]:
    """Return what the runs recorded, in the order in which they wrote."""
    file = directory / "record"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def started(directory: Path) -> list[str]:
    """Return the runs that had their GPUs, in the order in which they had them."""
    entries = sorted((entry for entry in record(directory) if entry["what"] == "start"), key=lambda entry: entry["at"])
    return [entry["run"] for entry in entries]


def places(directory: Path) -> set[str]:
    """Return the queue's places, those of killed runs too."""
    return {path.name for path in (directory / "queue").iterdir()} if (directory / "queue").is_dir() else set()


def wait(reason: str, condition: Any) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, reason
        time.sleep(0.005)


def all_free(directory: Path, ids: list[str]) -> bool:
    """Whether a new run has all devices at once."""
    lease = Gpus(ids, directory).lease(len(ids), {}, lambda _: pytest.fail("a device is lost"))
    for descriptor in lease.descriptors:
        os.close(descriptor)
    return lease.ids == tuple(ids)


def test_a_run_sees_exactly_the_devices_of_its_lease(tmp_path: Path) -> None:
    lease = Gpus(["3", "5", "7"], tmp_path).lease(2, {}, lambda _: None)
    assert environment(lease) == {
        "CUDA_VISIBLE_DEVICES": "3,5",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "ROCR_VISIBLE_DEVICES": "3,5",
        "HIP_VISIBLE_DEVICES": "0,1",
        "WORKER_GPU_IDS": "3,5",
        "PAG_GPU_LEASE": f"3={lease.descriptors[0]},5={lease.descriptors[1]}",
    }
    for descriptor in lease.descriptors:
        os.close(descriptor)


def test_a_run_without_gpus_waits_for_nobody_and_sees_none(tmp_path: Path) -> None:
    held = Gpus(["0"], tmp_path).lease(1, {}, lambda _: None)
    lease = Gpus(["0"], tmp_path).lease(0, {}, lambda _: pytest.fail("it waits"))
    assert {environment(lease)[name] for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")} == {""}
    os.close(held.descriptors[0])


def test_who_wants_more_than_there_are_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(TooFewGpusError, match=r"wants 3 GPUs, and .* has 2 \(0, 1\)"):
        Gpus(["0", "1"], tmp_path).lease(3, {}, lambda _: None)
    run = start(tmp_path, "a", 3)
    assert run.wait() == 1
    assert "The run wants 3 GPUs" in (tmp_path / "said-a").read_text()
    assert record(tmp_path) == []


def test_runs_have_their_turn_in_order_and_one_that_is_killed_while_it_waits_is_passed_over(tmp_path: Path) -> None:
    runs = {}
    for number, name in enumerate("abcdef"):
        # c and f want both; d and e could have one while c waits, and do not.
        runs[name] = start(tmp_path, name, 2 if name in "acf" else 1)
        # The first has its devices at once, the others a place each.
        wait(f"{name} did not come", lambda: len(places(tmp_path)) == number and started(tmp_path))  # noqa: B023
    wait("a did not start", lambda: started(tmp_path) == ["a"])
    runs["b"].kill()
    runs["e"].kill()
    for name in "acd":
        wait(f"{name} did not start", lambda: started(tmp_path)[-1] == name)  # noqa: B023
        (tmp_path / f"end-{name}").touch()
    (tmp_path / "end-f").touch()
    for run in runs.values():
        run.wait()
    assert started(tmp_path) == list("acdf")
    assert "waits for 2 GPUs" in (tmp_path / "said-c").read_text()
    assert "it is the next one" in (tmp_path / "said-b").read_text()
    assert "3 waiting runs before this one" in (tmp_path / "said-e").read_text()
    assert "has GPU 0, 1, after" in (tmp_path / "said-c").read_text()
    assert all_free(tmp_path, ["0", "1"])
    assert places(tmp_path) == set()


def test_a_device_stays_leased_while_its_box_holds_it_alone(tmp_path: Path) -> None:
    lease = Gpus(["0"], tmp_path).lease(1, {}, lambda _: None)
    # As the box does it, which inherits no lock.
    with subprocess.Popen(["flock", "--shared", "--nonblock", "--no-fork", tmp_path / "0.lock", "sleep", "60"]) as box:
        wait("the box has not begun", lambda: (Path("/proc") / str(box.pid) / "comm").read_text() == "sleep\n")
        os.close(lease.descriptors[0])
        waits: list[int] = []
        thread = threading.Thread(target=lambda: Gpus(["0"], tmp_path).lease(1, {}, waits.append), daemon=True)
        thread.start()
        wait("the device has two runs", lambda: waits == [0])
        box.kill()
        thread.join(10)
    assert not thread.is_alive()


def test_a_device_stays_leased_while_a_child_of_a_killed_run_uses_it(tmp_path: Path) -> None:
    child = "import os, time; os.fork() and os.kill(os.getpid(), 9); open('child', 'w'); time.sleep(60)"
    command = [*wrapper(["0"], 1, tmp_path), "--", sys.executable, "-c", child]
    subprocess.run(command, cwd=tmp_path, env=_variables(), check=False)
    wait("the child did not start", (tmp_path / "child").exists)
    waits: list[int] = []
    thread = threading.Thread(target=lambda: Gpus(["0"], tmp_path).lease(1, {}, waits.append), daemon=True)
    thread.start()
    wait("the device has two runs", lambda: waits == [0])
    pid = next(path.parent.name for path in Path("/proc").glob("[0-9]*/cwd") if _is_at(path, tmp_path))
    os.kill(int(pid), signal.SIGKILL)
    thread.join(10)
    assert not thread.is_alive()


def _is_at(link: Path, directory: Path) -> bool:
    try:
        return link.readlink() == directory
    except OSError:
        return False


def _worker(directory: Path, seed: int, killed: dict[str, int], order: list[str]) -> None:
    """Be a worker with two devices and up to five runs at once, some of which are killed at any time."""
    chance = random.Random(seed)  # noqa: S311
    living: dict[str, subprocess.Popen[bytes]] = {}
    for name in map(str, range(100)):
        while len(living) == 5:
            time.sleep(0.01)
            living = {ended: run for ended, run in living.items() if run.poll() is None}
        if living and chance.random() < 0.2:
            victim = chance.choice(sorted(living))
            killed[victim] = time.time_ns()
            living[victim].kill()
            living.pop(victim).wait()
        before = places(directory)
        living[name] = start(directory, name, chance.choice([1, 1, 1, 2]), seconds=f"{chance.random() * 0.02:.3f}")
        order.append(name)
        wait("it has no place", partial(_has_come, directory, name, before, living[name]))
    for run in living.values():
        run.wait()


def _has_come(directory: Path, name: str, before: set[str], run: subprocess.Popen[bytes]) -> bool:
    """Whether a run has a place in the queue, or has had one."""
    return run.poll() is not None or not places(directory) <= before or name in started(directory)


@pytest.mark.process
def test_no_device_has_two_runs_and_none_is_lost_when_runs_are_killed_at_random(tmp_path: Path) -> None:
    workers = []
    for number in range(2):
        directory = tmp_path / str(number)
        directory.mkdir()
        killed: dict[str, int] = {}
        order: list[str] = []
        thread = threading.Thread(target=_worker, args=(directory, number, killed, order))
        workers.append((directory, thread, killed, order))
        thread.start()
    for directory, thread, killed, order in workers:
        thread.join()
        entries = record(directory)
        starts = {entry["run"]: entry for entry in entries if entry["what"] == "start"}
        ends = {entry["run"]: entry["at"] for entry in entries if entry["what"] == "end"}
        # Killed before they had a device, they recorded nothing; all others have a start and an end.
        assert set(order) - set(killed) <= set(starts) & set(ends)
        assert len(order) == 100
        assert len(killed) > 5
        for gpu in ("0", "1"):
            leases = sorted(
                (entry["at"], ends.get(name, killed.get(name)), name)
                for name, entry in starts.items()
                if gpu in entry["ids"]
            )
            assert len(leases) > 20
            for (_, end, first), (since, _, second) in itertools.pairwise(leases):
                assert end <= since, f"GPU {gpu} of {directory.name} had {first} and {second} at once"
        assert started(directory) == [name for name in order if name in starts]
        assert all_free(directory, ["0", "1"])
        assert places(directory) == set()
