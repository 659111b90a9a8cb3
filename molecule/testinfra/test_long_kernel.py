"""Limits of runs are enforced on a worker with a kernel and control groups of its own, as real nodes have them.

test_boxes runs there too, before.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator

import pytest
from cluster_site import Secrets
from machines import Machines
from placed_flow import PlacedFlow
from playbooks import played
from prefect_api import PrefectApi
from scenario_log import report
from testinfra.host import Host

WORKER = "pag-worker-1"
SERVICE = "prefect-worker-cpu.service"
SPINNERS = 4
"""Programs for each processor that want it: enough for the kernel to share them out evenly."""
GATE = "/srv/pag-kernel-gate"
GROUPS = "/sys/fs/cgroup/pag.slice/pag-run.slice"
MAIN = f'''
import json, os, subprocess, sys, time
from pathlib import Path

from prefect import flow

HOG = """
held = []
while True:
    held.append(bytearray(b"x") * 2**23)
"""
BOMB = ":() {{ : | : & }}; :; sleep 86397"


def wait():
    while not Path("{GATE}").exists():
        time.sleep(0.5)


def child():
    print("The child ended with", subprocess.run([sys.executable, "-c", HOG]).returncode)


def fork():
    children = []
    try:
        while True:
            children.append(subprocess.Popen(["sleep", "86397"]))
    finally:
        for process in children:
            process.kill()
            process.wait()


def bomb():
    subprocess.Popen(["setsid", "nohup", "bash", "-c", BOMB])
    time.sleep(3600)


def spin():
    for _ in range({SPINNERS} * os.cpu_count()):
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
    time.sleep(3600)


def look():
    def done(*command):
        return subprocess.run(command, capture_output=True).returncode == 0

    group = Path("/sys/fs/cgroup" + Path("/proc/self/cgroup").read_text().strip().split("::")[1])
    seen = {{
        "module": done("/usr/sbin/modprobe", "dummy"),
        "usr": done("touch", "/usr/x"),
        "host_name": done("hostname", "other"),
        "clock": done("date", "--set", "2000-01-01"),
        "kernel_log": done("dmesg"),
        "setting": done("sh", "-c", "echo 1 > /proc/sys/vm/drop_caches"),
        "limit": done("sh", "-c", f"echo max > {{group}}/memory.max"),
        "process": any(path.stat().st_uid != os.getuid() for path in Path("/proc").glob("[0-9]*")),
    }}
    Path(os.environ["PREFECT_LOCAL_STORAGE_PATH"], "seen.json").write_text(json.dumps(seen))


def tell(flow, flow_run, state):
    Path(os.environ["PREFECT_LOCAL_STORAGE_PATH"], str(flow_run.id)).write_text(state.message)


@flow(name="limited", log_prints=True, on_crashed=[tell])
def work(does: str) -> None:
    exec(HOG) if does == "memory" else globals()[does]()
'''

On = Callable[[str], Host]


@pytest.fixture(scope="module")
def worker(on: On) -> Host:
    """The virtual machine."""
    return on(WORKER)


@pytest.fixture(scope="module")
def api(machines: Machines, secrets: Secrets) -> Iterator[PrefectApi]:
    """The server's API, for the whole module."""
    with machines.tunnel() as port:
        yield PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth)


class Limited(PlacedFlow):
    """A flow that wants more than it may have."""

    def start(self, does: str, **limits: object) -> str:
        """Start a run and return its id."""
        return self.start_with({"does": does}, **limits)


@pytest.fixture(scope="module")
def limited(machines: Machines, api: PrefectApi) -> Iterator[Limited]:
    """The flow, deployed."""
    flow = Limited(machines, api, "limited", MAIN, "main.py:work")
    with flow.deployed():
        yield flow


@pytest.fixture(scope="module")
def neighbour(limited: Limited, worker: Host) -> Iterator[str]:
    """The unit of a run with limits that goes on all the while, and completes; the worker is not started again."""
    worker.run_expect([0], f"rm -f {GATE}")
    show = f"systemctl show --property=MainPID,NRestarts {SERVICE} pag-run.socket ssh.service"
    before = worker.check_output(show)
    run = limited.start("wait", memory_max="700M", cpu_weight=50, tasks_max=200)
    limited.wait_for(run, "Running")
    yield limited.unit_of(run)[1]
    worker.run_expect([0], f"touch {GATE}")
    assert limited.wait_for(run, "Completed", "Crashed", "Failed")["state_name"] == "Completed"
    assert worker.check_output(show) == before


@pytest.fixture
def swap(worker: Host) -> Iterator[None]:
    """Swap on the machine, which runs with a limit do not get."""
    worker.run_expect([0], "fallocate -l 512M /swap && chmod 600 /swap && mkswap /swap && swapon /swap")
    yield
    worker.run_expect([0], "swapoff /swap && rm /swap")


def _kernel_killed(worker: Host, run: str) -> bool:
    """Whether the kernel says that it killed a process of a run for want of memory."""
    said = worker.check_output("journalctl --dmesg --no-pager --output=cat")
    return any(f"flow-run-{run}" in line and line.startswith("oom-kill:") for line in said.splitlines())


def _processor_seconds(worker: Host, unit: str) -> float:
    """What a run's processes have taken of the processors so far."""
    said = worker.check_output(f"cat {GROUPS}/{unit}/cpu.stat")
    return int(dict(line.split() for line in said.splitlines())["usage_usec"]) / 1e6


def test_the_worker_has_a_kernel_of_its_own(worker: Host) -> None:
    kernel, runs_on = worker.check_output("uname -r"), worker.check_output("systemd-detect-virt")
    report(f"{WORKER} has Linux {kernel}, and runs on {'KVM' if runs_on == 'kvm' else f'{runs_on}, emulated'}.")
    assert kernel != platform.release()
    types = worker.check_output("findmnt --noheadings --raw --output=FSTYPE --submounts /sys/fs/cgroup").split()
    assert types == ["cgroup2"]


def test_the_preflight_says_that_limits_can_be_enforced(machines: Machines) -> None:
    told = played(machines, "preflight.yml").text
    assert "Nothing is in the way of installing." in told
    assert f"warning: {WORKER}: cannot enforce" not in told


def test_the_kernel_is_told_the_limits(neighbour: str, worker: Host) -> None:
    expected = {
        "memory.max": str(700 * 2**20),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "cpu.weight": "50",
        "pids.max": "200",
    }
    assert {name: worker.check_output(f"cat {GROUPS}/{neighbour}/{name}") for name in expected} == expected
    process = worker.check_output(f"systemctl show --property=MainPID --value {neighbour}")
    assert worker.check_output(f"cat /proc/{process}/oom_score_adj") == "500"
    assert worker.check_output(f"cat {GROUPS}/memory.max") != "max"


@pytest.mark.parametrize("does", ["memory", "child"])
def test_a_run_without_memory_is_ended_alone_and_says_so(
    does: str, limited: Limited, neighbour: str, worker: Host, swap: None
) -> None:
    run = limited.start(does, memory_max="300M")
    expected = "Out of memory: the run used more than memory_max=300M."
    limited.crashed(run, expected)
    assert _kernel_killed(worker, run)
    # Its hooks are called all the same, and told.
    told = worker.file(f"/opt/prefect/storage/limited/{run}")
    deadline = time.monotonic() + 300
    while not (told.exists and told.content_string):
        assert time.monotonic() < deadline, limited.api.logs(run)
        time.sleep(1)
    assert told.content_string == expected
    # Of 512 MB, of which the machine itself may have taken some.
    assert int(worker.check_output("awk '/SwapFree/ {print $2}' /proc/meminfo")) > 400_000


@pytest.mark.parametrize("limits", [{}, {"memory_max": "64G"}])
def test_a_run_that_takes_all_memory_is_ended_alone(
    limits: dict[str, str], limited: Limited, neighbour: str, worker: Host
) -> None:
    run = limited.start("memory", **limits)
    limited.crashed(run, "Out of memory: the node had no more for its runs, and the kernel ended this one.")


def test_a_run_without_processes_says_so(limited: Limited, neighbour: str) -> None:
    run = limited.start("fork", tasks_max=64)
    limited.wait_for(run, "Failed")
    expected = "Out of processes: the run wanted more processes and threads than tasks_max=64."
    deadline = time.monotonic() + 60
    while expected not in (logged := limited.api.logs(run)):
        assert time.monotonic() < deadline, logged
        time.sleep(0.5)


def test_a_fork_bomb_is_bounded_and_gone_when_its_run_is_cancelled(
    limited: Limited, neighbour: str, worker: Host
) -> None:
    run = limited.start("bomb", tasks_max=100, cpu_weight=10)
    _, unit = limited.unit_of(run)
    deadline = time.monotonic() + 120
    while "max 0" in (events := worker.check_output(f"cat {GROUPS}/{unit}/pids.events")):
        assert time.monotonic() < deadline, events
        time.sleep(0.5)
    assert int(worker.check_output(f"cat {GROUPS}/{unit}/pids.current")) <= 100
    limited.cancel(run)
    deadline = time.monotonic() + 60
    while left := worker.run(f"ls -d {GROUPS}/{unit}; pgrep -u prefect -x 'bash|sleep'").stdout:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def test_processors_are_shared_by_weight(limited: Limited, neighbour: str, worker: Host) -> None:
    runs = {weight: limited.start("spin", cpu_weight=weight) for weight in (50, 200)}
    units = {weight: limited.unit_of(run)[1] for weight, run in runs.items()}
    # The interpreters, beside the engine, that want all processors.
    spinning = 2 * SPINNERS * int(worker.check_output("nproc"))
    deadline = time.monotonic() + 180
    while len(worker.run("pgrep -u prefect -f 'while True: pass'").stdout.split()) < spinning:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    before = {weight: _processor_seconds(worker, unit) for weight, unit in units.items()}
    time.sleep(60)
    used = {weight: _processor_seconds(worker, unit) - before[weight] for weight, unit in units.items()}
    for run in runs.values():
        limited.cancel(run)
    # Four to one is what they were promised; others on the node take a little from both.
    assert 3 < used[200] / used[50] < 5, used


def test_a_run_cannot_change_the_machine_or_see_others(limited: Limited, worker: Host) -> None:
    limited.wait_for(limited.start("look", memory_max="500M"), "Completed")
    seen = json.loads(worker.file("/opt/prefect/storage/limited/seen.json").content_string)
    assert seen == dict.fromkeys(seen, False)
    assert "dummy" not in worker.check_output("lsmod")


def test_nothing_has_failed_and_the_firewall_is_there(worker: Host) -> None:
    assert worker.check_output("systemctl list-units --failed --plain --no-legend") == ""
    assert "inet pag" in worker.check_output("nft list tables")
    assert "drop" in worker.check_output("nft list table inet pag")
