"""Runs that go on all the while something is done to a cluster: short ones every few seconds, and long ones."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from delta import killed_after
from guide import CONTROLLER
from machines import Machines
from prefect_api import ApiError, PrefectApi

FLOW = "steady"
DEPLOYMENT = "steady/steady"
# A flow directory that is called like one of the bundle's, and has its locks, uses that one's environment.
_DIRECTORY = "steady/demo1"
_MAIN = f'''
"""Tell the server every second that it is still there."""

import time
from importlib.metadata import version

from prefect import flow, task


@task
def tick(number: int) -> int:
    time.sleep(1)
    return number


@flow(name="{FLOW}", log_prints=True)
def steady(seconds: int = 1) -> None:
    for number in range(seconds):
        assert tick(number) == number
    print("Prefect", version("prefect"))
'''

SHORT_SECONDS = 1
LONG_SECONDS = 30
# Of the runs, every so many is a long one.
_EVERY = 4


@dataclass
class SteadyRuns:
    """Runs of one flow, which are planned ahead: nobody has to reach the server while it stands still."""

    machines: Machines
    api: PrefectApi
    runs: list[str] = field(default_factory=list)
    """Ids of all that were planned."""

    def deploy(self) -> None:
        """Deploy the flow with the environment that the installed bundle has for it."""
        self.machines.ssh(CONTROLLER, "rm -rf steady && mkdir steady && cp -r pag-software-bundle/flows/demo1 steady/")
        self.machines.write(CONTROLLER, f"{_DIRECTORY}/main.py", _MAIN)
        deploy = f"prefect-flow-deployment.yml -e flow_dir=~/{_DIRECTORY} -e entrypoint=main.py:steady"
        self.machines.ssh(CONTROLLER, f"cd pag-software-bundle/ansible && ansible-playbook -i inventory.yml {deploy}")

    def plan(self, seconds: float, pause: float = 5) -> None:
        """Plan runs for the coming *seconds*, one every *pause* seconds, the first a long one that begins now."""
        for number in range(int(seconds / pause)):
            length = SHORT_SECONDS if number % _EVERY else LONG_SECONDS
            self.runs.append(self.api.start(DEPLOYMENT, {"seconds": length}, delay=number * pause))

    def add(self) -> None:
        """Have one short run more, which may begin now."""
        self.runs.append(self.api.start(DEPLOYMENT, {"seconds": SHORT_SECONDS}))

    def states(self) -> list[str]:
        """Return the names of the runs' states, in the order of the plan."""
        return [self.api.request("GET", f"/flow_runs/{run}")["state_name"] for run in self.runs]

    def wait_until_running(self, timeout: float = 60) -> None:
        """Wait until one of them is under way; raises ApiError when none is after *timeout* seconds."""
        deadline = time.monotonic() + timeout
        while "Running" not in self.states():
            if time.monotonic() > deadline:
                raise ApiError(f"None of the runs began within {timeout:.0f} s: {self.states()}.")
            time.sleep(0.5)

    def lost(self, timeout: float = 180) -> dict[str, str]:
        """Wait until all have ended, and return those that did not complete, with what the server says of them."""
        ended = {run: self.api.wait(run, timeout) for run in self.runs}
        return {
            run: f"{found['state_name']}: {(found.get('state') or {}).get('message')}\n{self.api.logs(run)}"
            for run, found in ended.items()
            if found["state_type"] != "COMPLETED"
        }


def start_times(machines: Machines, units: dict[str, list[str]]) -> dict[tuple[str, str], str]:
    """Return when the units were started, by machine and unit; empty for one that does not run."""
    times = {}
    for machine, names in units.items():
        show = f"systemctl show --property=Id,ActiveEnterTimestampMonotonic {' '.join(names)}"
        for block in machines.ssh(machine, show).split("\n\n"):
            found = dict(line.split("=", 1) for line in block.splitlines() if line)
            times[machine, found["Id"]] = found["ActiveEnterTimestampMonotonic"]
    return times


def played(machines: Machines, playbook: str, *arguments: str, kill_after: float | None = None) -> tuple[int, str]:
    """Run a playbook on the controller; return its exit code and what it printed.

    With *kill_after* it is killed after so many seconds, with all that it started, and ends with 137.
    """
    command = f"ansible-playbook -i inventory.yml {playbook} {' '.join(arguments)}"
    if kill_after is not None:
        command = killed_after(kill_after, command)
    finished = subprocess.run(
        ["ssh", "-F", Path(machines.ssh_config), CONTROLLER, f"cd pag-software-bundle/ansible && {command}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return finished.returncode, finished.stdout
