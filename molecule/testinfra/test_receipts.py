"""main.yml leaves nodes alone that are as it found them, and no others."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

import pytest
from cluster_site import CPU_WORKERS
from guide import CONTROLLER
from machines import Machines
from testinfra.host import Host

TAMPERED, OTHER = CPU_WORKERS
_SETTINGS = "/etc/prefect/worker-cpu.env"
# The question about the receipt, preflight, and the tasks of a moment around them.
_FEW = 10

Counts = dict[str, tuple[int, int]]
"""By node: tasks that ran, and changes."""


@pytest.fixture(scope="module")
def play(machines: Machines) -> Callable[..., Counts]:
    """Run main.yml for the workers with more arguments, and return what it did."""

    def run(*arguments: str) -> Counts:
        typed = f"ansible-playbook -i inventory.yml main.yml --tags prefect-worker {' '.join(arguments)}"
        finished = subprocess.run(
            ["ssh", "-F", machines.ssh_config, CONTROLLER, f"cd pag-software-bundle/ansible && {typed}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert finished.returncode == 0, finished.stdout[-3000:]
        recap = re.findall(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)", finished.stdout, re.MULTILINE)
        return {node: (int(ran), int(changes)) for node, ran, changes in recap}

    return run


def test_a_run_that_found_nothing_to_change_makes_the_next_one_short(play: Callable[..., Counts]) -> None:
    for _ in range(3):
        counts = play()
        if all(counts[name][0] <= _FEW for name in CPU_WORKERS):
            break
    else:
        pytest.fail(f"The third run in a row still asks everything: {counts}")
    assert {changes for _, changes in counts.values()} == {0}


def test_what_was_tampered_with_is_seen_and_put_right(
    play: Callable[..., Counts], machines: Machines, on: Callable[[str], Host]
) -> None:
    machines.ssh(TAMPERED, f"sudo chmod 644 {_SETTINGS}")
    counts = play("--check")
    assert counts[TAMPERED][1] > 0
    assert counts[OTHER][0] <= _FEW
    assert on(TAMPERED).file(_SETTINGS).mode == 0o644
    counts = play()
    assert counts[TAMPERED][1] > 0
    assert counts[OTHER][0] <= _FEW
    assert on(TAMPERED).file(_SETTINGS).mode == 0o600
