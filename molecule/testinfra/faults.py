"""What the tests of faults share: a flow that waits, its runs, and what must hold again after every fault."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cluster_site import CPU_WORKERS, SERVER
from guide import CONTROLLER
from machines import Machines, MachinesError
from prefect_api import ApiError, PrefectApi, worker_of

REPOSITORY = Path(__file__).resolve().parent.parent.parent
ANSIBLE = "pag-software-bundle/ansible"

PLAIN = "faults/plain"
"""A run of this deployment that is lost becomes Crashed."""
AGAIN = "faults/again"
"""A run of this one is scheduled again."""

LIMIT = "faults"
"""Every run holds one slot of this global concurrency limit while it works."""

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
SERVICES = {
    SERVER: ("postgresql.service", "prefect-server.service", "nginx.service"),
    CPU_WORKERS[0]: ("prefect-worker-cpu.service",),
    CPU_WORKERS[1]: ("prefect-worker-cpu.service", "prefect-worker-gpu.service"),
}

_SLOTS = 100
_DIRECTORY = "faults"
_PLACE = "/srv/pag-faults"  # on the machines, where runs may write
_JOURNAL = f"{_PLACE}/journal"
# The flow directory is called like one of the bundle's, and so uses that one's environment.
_SOURCE = "demo1"
_MAIN = f'''
"""Wait, and write down every beginning and end."""

import time
from pathlib import Path

from prefect import flow, runtime
from prefect.concurrency.sync import concurrency


def note(what: str) -> None:
    with Path("{_JOURNAL}").open("a") as journal:
        journal.write(f"{{runtime.flow_run.id}} {{what}}\\n")


@flow(name="faults", log_prints=True)
def wait(gate: str) -> None:
    note("begins")
    with concurrency("{LIMIT}", occupy=1):
        while not Path("{_PLACE}", gate).exists():
            time.sleep(0.1)
    note("ends")
'''
_PREFECT_YAML = """
deployments:
  - name: plain
    entrypoint: main.py:wait
    work_pool: {name: cpu-pool}
  - name: again
    entrypoint: main.py:wait
    tags: [rerun-when-lost]
    work_pool: {name: cpu-pool}
"""

# The kernel's clock is the host's. What is started on the machine asks this instead, and is told another time.
_CLOCK = """
#include <time.h>
#include <sys/time.h>
static long call(long number, long first, long second) {
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(first), "S"(second) : "rcx", "r11", "memory");
  return result;
}
int clock_gettime(clockid_t clock, struct timespec *when) {
  long result = call(228, clock, (long)when);
  if (result == 0 && clock == CLOCK_REALTIME) when->tv_sec += OFFSET;
  return result == 0 ? 0 : -1;
}
int gettimeofday(struct timeval *restrict when, void *restrict zone) {
  struct timespec now;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &now);
  when->tv_sec = now.tv_sec;
  when->tv_usec = now.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *when) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (when) *when = now.tv_sec;
  return now.tv_sec;
}
"""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Faults:
    """The cluster that has the faults, as its users see it."""

    machines: Machines
    api: PrefectApi
    limit: int = 4
    """How many runs a worker has at the same time."""

    @property
    def some(self) -> int:
        """How many runs no worker can have alone."""
        return self.limit + 2

    def play(self, playbook: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook on the controller and return what came of it."""
        command = f"cd {ANSIBLE} && ansible-playbook -i inventory.yml {shlex.join([playbook, *arguments])}"
        return subprocess.run(
            ["ssh", "-F", self.machines.ssh_config, CONTROLLER, command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def deploy(self) -> None:
        """Deploy the flow as operators do."""
        # What its environment is made from must be what the bundle's was made from.
        copy = f"cp -r pag-software-bundle/flows/{_SOURCE} {_DIRECTORY}/"
        self.machines.ssh(CONTROLLER, f"rm -rf {_DIRECTORY} && mkdir {_DIRECTORY} && {copy}")
        for file, content in (("main.py", _MAIN), ("prefect.yaml", _PREFECT_YAML)):
            self.machines.write(CONTROLLER, f"{_DIRECTORY}/{_SOURCE}/{file}", content)
        played = self.play("prefect-flow-deployment.yml", "-e", f"flow_dir=~/{_DIRECTORY}/{_SOURCE}")
        assert played.returncode == 0, played.stdout[-3000:]
        known = {limit["name"] for limit in self.api.request("POST", "/v2/concurrency_limits/filter", {})}
        if LIMIT not in known:
            self.api.request("POST", "/v2/concurrency_limits/", {"name": LIMIT, "limit": _SLOTS})
        for name in CPU_WORKERS:
            made = f"sudo rm -rf {_PLACE} && sudo mkdir -m 777 {_PLACE} && sudo install -m 666 /dev/null {_JOURNAL}"
            self.machines.ssh(name, made)

    def forget(self) -> None:
        """Take the limit and the files away again; the flow stays deployed."""
        self.api.request("DELETE", f"/v2/concurrency_limits/{LIMIT}")
        self.machines.ssh(CONTROLLER, f"rm -rf {_DIRECTORY}")
        for name in CPU_WORKERS:
            self.machines.ssh(name, f"sudo rm -rf {_PLACE}")

    def start(self, count: int, gate: str, deployment: str = PLAIN) -> list[str]:
        """Create runs that work until the gate of this name is opened, and return their ids."""
        return [self.api.start(deployment, {"gate": gate}) for _ in range(count)]

    def open(self, gate: str, *machines: str) -> None:
        """Let runs end that wait for the gate, on these machines (default: on all)."""
        for name in machines or CPU_WORKERS:
            self.machines.ssh(name, f"touch {_PLACE}/{gate}")

    def runs(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return the runs with these ids."""
        query = {"flow_runs": {"id": {"any_": list(ids)}}, "limit": 200}
        return list(self.api.request("POST", "/flow_runs/filter", query))

    def working(self, ids: Sequence[str], timeout: float = 120) -> list[dict[str, Any]]:
        """Wait until all of these runs are inside of their flow's code, and return them."""
        return eventually(lambda: self._all_work(ids), timeout, "not all runs work")

    def _all_work(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        runs, begun = self.runs(ids), {run for run, word in self.journal() if word == "begins"}
        return runs if set(ids) <= begun and {run["state_type"] for run in runs} == {"RUNNING"} else []

    def ended(self, ids: Sequence[str], timeout: float) -> list[dict[str, Any]]:
        """Wait until all of these runs are in a final state, and return them."""

        def look() -> list[dict[str, Any]]:
            runs = self.runs(ids)
            return runs if len(runs) == len(ids) and all(run["state_type"] in FINAL for run in runs) else []

        try:
            return eventually(look, timeout, "not all runs ended")
        except TimeoutError:
            states = Counter((run["state_name"], worker_of(run)) for run in self.runs(ids))
            raise AssertionError(f"After {timeout:.0f} s the runs are: {dict(states)}.") from None

    def journal(self) -> list[tuple[str, str]]:
        """Return what the runs wrote down on all workers: run, and ``begins`` or ``ends``."""
        lines = []
        for name in CPU_WORKERS:
            lines += self.machines.ssh(name, f"cat {_JOURNAL}").splitlines()
        return [(run, word) for run, _, word in (line.partition(" ") for line in lines)]

    def expect_completed(self, ids: Sequence[str], timeout: float) -> None:
        """Wait until all of these runs are Completed; each has worked once, from its beginning to its end.

        One that the server could not hear of for long may be Crashed until it is heard of again.
        """

        def look() -> bool:
            return {run["state_name"] for run in self.runs(ids)} == {"Completed"}

        try:
            eventually(look, timeout, "not all runs are completed")
        except TimeoutError:
            states = Counter((run["state_name"], run["state"]["message"]) for run in self.runs(ids))
            raise AssertionError(f"After {timeout:.0f} s the runs are: {dict(states)}.") from None
        assert Counter(entry for entry in self.journal() if entry[0] in ids) == Counter(
            (run, word) for run in ids for word in ("begins", "ends")
        )

    def expect_lost(self, plain: Sequence[str], again: Sequence[str], timeout: float) -> None:
        """Wait until runs whose processes died are what they should be: Crashed with a reason, or done after all."""
        for run in self.ended([*plain, *again], timeout):
            if run["id"] in again:
                assert run["state_name"] == "Completed", run["state"]
            else:
                assert run["state_type"] in {"COMPLETED", "CRASHED"}, run["state"]
                assert run["state_type"] == "COMPLETED" or re.search(r"\w+ \w+ \w+", run["state"]["message"] or "")

    def signal(self, machine: str, unit: str, signal: str = "KILL") -> None:
        """Send all processes of a unit a signal."""
        self.machines.ssh(machine, f"sudo systemctl kill --signal={signal} {unit}")

    def expect_well(self, slots_timeout: float | None = 60) -> None:
        """Everything is as it was before the fault, without anybody's doing: services, workers, slots, new runs.

        With None, slots are not looked at: those of processes that died are given back when their leases are over.
        """
        for machine, units in SERVICES.items():
            for unit in units:
                eventually(lambda m=machine, u=unit: self._active(m, u), 60, f"{unit} on {machine} is not active")  # type: ignore[misc]
        gate = f"well-{time.monotonic_ns()}"
        runs = self.start(self.some, gate)
        assert {worker_of(run) for run in self.working(runs)} == set(CPU_WORKERS)
        self.open(gate)
        self.ended(runs, 60)
        assert {run["state_name"] for run in self.runs(runs)} == {"Completed"}
        if slots_timeout is not None:
            eventually(lambda: self.slots() == 0, slots_timeout, "slots are still taken")
        open_states = {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}
        left = self.api.request("POST", "/flow_runs/filter", {"flow_runs": {"state": open_states}})
        assert [run["state_name"] for run in left] == []

    def _active(self, machine: str, unit: str) -> bool:
        return self.machines.ssh(machine, f"systemctl is-active {unit}", check=False).strip() == "active"

    def slots(self) -> int:
        """Return how many slots of the limit are taken."""
        return int(self.api.request("GET", f"/v2/concurrency_limits/{LIMIT}")["active_slots"])

    def shift_clock(self, machine: str, seconds: int, scratch: Path) -> None:
        """Let every program that is started on the machine from now on see a clock that is so much ahead."""
        source, library = scratch / "clock.c", scratch / "clock.so"
        source.write_text(_CLOCK)
        # Without the C library of this host, so that it fits every machine.
        options = ["-shared", "-fPIC", "-O1", "-nostdlib", f"-DOFFSET={seconds}"]
        subprocess.run(["gcc", *options, "-o", str(library), str(source)], check=True)
        self.machines.copy([library], machine, "pag-clock.so")
        self.machines.ssh(machine, "sudo install -m 755 pag-clock.so /usr/local/lib/pag-clock.so && rm pag-clock.so")
        self.machines.ssh(machine, "echo /usr/local/lib/pag-clock.so | sudo tee /etc/ld.so.preload")

    def set_clock_right(self, machine: str) -> None:
        """Let programs see the kernel's clock again."""
        self.machines.ssh(machine, "sudo rm -f /etc/ld.so.preload /usr/local/lib/pag-clock.so")


def eventually(look: Callable[[], Result], timeout: float, otherwise: str) -> Result:
    """Return what *look* gives as soon as that is true; no answer counts as not yet. Raises TimeoutError."""
    deadline = time.monotonic() + timeout
    reason = ""
    while True:
        try:
            if found := look():
                return found
        except (ApiError, MachinesError, OSError) as error:
            reason = f" ({error})"
        if time.monotonic() > deadline:
            raise TimeoutError(f"After {timeout:.0f} s, {otherwise}{reason}.")
        time.sleep(1)
