"""Playbooks as an operator runs them on the controller, beyond those of the README's guide."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster_site import inventory
from guide import CONTROLLER
from machines import Machines, MachinesError

DIRECTORY = "pag-software-bundle/ansible"
"""Where they are, in the operator's home."""

_RECAP = re.compile(r"^(?P<host>[\w.-]+)\s+: ok=\d+\s+changed=(?P<changed>\d+)", re.MULTILINE)
_MESSAGE = re.compile(r"fatal: \[[^]]+\]: [A-Z]+! =>\s+(?P<text>.*?)\n\n", re.DOTALL)


@dataclass(frozen=True)
class Result:
    """How a playbook ended."""

    returncode: int
    output: str
    seconds: float

    @property
    def changed(self) -> dict[str, int]:
        """How many tasks changed something, by host."""
        return {match["host"]: int(match["changed"]) for match in _RECAP.finditer(self.output)}

    @property
    def changes(self) -> int:
        """How many tasks changed something, on all machines."""
        return sum(self.changed.values())

    @property
    def text(self) -> str:
        """The output in one line, for sentences that are broken across lines."""
        return " ".join(self.output.split())

    @property
    def refusal(self) -> str:
        """What it refused with, in one line."""
        match = _MESSAGE.search(self.output)
        return " ".join(match["text"].split()) if match else ""


def command(playbook: str, *arguments: str, prefix: str = "") -> str:
    """Return the shell command that runs a playbook; *prefix* is what stands before ``ansible-playbook``."""
    return f"cd {DIRECTORY} && {prefix} ansible-playbook -i inventory.yml {shlex.join([playbook, *arguments])}"


def play(machines: Machines, playbook: str, *arguments: str, prefix: str = "") -> Result:
    """Run a playbook with the cluster's inventory to its end."""
    return run(machines, command(playbook, *arguments, prefix=prefix))


def played(machines: Machines, playbook: str, *arguments: str) -> Result:
    """The same, and assert that it ended well."""
    result = play(machines, playbook, *arguments)
    assert result.returncode == 0, result.output[-3000:]
    return result


def run(machines: Machines, line: str) -> Result:
    """Run a line of shell on the controller."""
    started = time.monotonic()
    finished = subprocess.run(
        ["ssh", "-F", machines.ssh_config, CONTROLLER, line],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Result(finished.returncode, finished.stdout, round(time.monotonic() - started, 1))


def replace_machine(machines: Machines, name: str, *, new_address: bool = False) -> None:
    """Destroy a machine and boot an empty one of its name; the controller's connections to the old one are closed."""
    program = Path(__file__).resolve().parent.parent / "testbed/replace.py"
    options = ["--new-address"] if new_address else []
    replace: list[str | Path] = [sys.executable, program, "--cluster", machines.cluster, *options, name]
    finished = subprocess.run(replace, capture_output=True, text=True)
    if finished.returncode != 0:
        raise MachinesError(finished.stderr.strip())
    if name != CONTROLLER:
        # They would be noticed as dead only after a minute.
        machines.ssh(CONTROLLER, "rm -rf ~/.ansible/cp")


def write_inventory(machines: Machines, cpu: tuple[str, ...], gpu: Mapping[str, str]) -> None:
    """Write the site's inventory: CPU workers, and GPU workers with their ``worker_gpu_ids``."""
    text = inventory(cpu, tuple(gpu))
    for name, ids in gpu.items():
        text = re.sub(rf'(  {name}:\n +worker_gpu_ids: )"0,1"', rf'\g<1>"{ids}"', text)
    machines.write(CONTROLLER, f"{DIRECTORY}/inventory.yml", text)


@contextmanager
def kept_inventory(machines: Machines) -> Iterator[None]:
    """Bring the site's inventory back afterwards."""
    before = machines.ssh(CONTROLLER, f"cat {DIRECTORY}/inventory.yml")
    try:
        yield
    finally:
        machines.write(CONTROLLER, f"{DIRECTORY}/inventory.yml", before)
