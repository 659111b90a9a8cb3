"""Two operators run playbooks at once: the second is told who is first, and nothing is left of one that was killed."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster_site import CPU_WORKERS
from guide import CONTROLLER
from machines import Machines
from playbooks import DIRECTORY, command, play

PLAYBOOK = "wait-for-the-test.yml"
GO_ON = "/run/pag-test-go-on"
# Its forks wait on SSH, as they do in the middle of any playbook.
WAITING = f"""
- hosts: prefect_workers
  gather_facts: false
  become: true
  tasks:
    - ansible.builtin.command: touch {GO_ON}-started
    - ansible.builtin.command: sh -c 'while [ ! -e {GO_ON} ]; do sleep 0.2; done'
"""


@dataclass(frozen=True)
class First:
    """The first operator's playbook."""

    process: subprocess.Popen[str]
    pid: int
    """On the controller, of ``ansible-playbook``."""


@pytest.fixture
def first(machines: Machines) -> Iterator[First]:
    """A playbook that is under way on all workers."""
    machines.write(CONTROLLER, f"{DIRECTORY}/{PLAYBOOK}", WAITING)
    process = subprocess.Popen(
        ["ssh", "-F", machines.ssh_config, CONTROLLER, command(PLAYBOOK)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        for name in CPU_WORKERS:
            machines.ssh(name, f"for i in $(seq 300); do [ -e {GO_ON}-started ] && exit; sleep 0.1; done; exit 1")
        # The oldest one: its forks have the same command line.
        yield First(process, int(machines.ssh(CONTROLLER, f"pgrep -o -f '[a]nsible-playbook .*{PLAYBOOK}'")))
    finally:
        _go_on(machines)
        process.communicate(timeout=60)
        for name in CPU_WORKERS:
            machines.ssh(name, f"sudo rm -f {GO_ON} {GO_ON}-started")
        machines.ssh(CONTROLLER, f"rm {DIRECTORY}/{PLAYBOOK}")


def _go_on(machines: Machines) -> None:
    for name in CPU_WORKERS:
        machines.ssh(name, f"sudo touch {GO_ON}")


def test_the_second_operator_is_told_who_is_first(machines: Machines, first: First) -> None:
    # Another operator needs the vault's password too; here it is root.
    password = ".config/pag/vault-password"
    machines.ssh(CONTROLLER, f"sudo install -D -m 600 {password} /root/{password}")
    refused = play(machines, "main.yml", "--tags", "prefect-worker", prefix="sudo")
    assert refused.returncode != 0
    since = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    said = rf"(\w+) runs (\S+) on this site since {since} \(pid (\d+)\): wait until that has ended"
    assert re.findall(said, refused.text) == [("operator", PLAYBOOK, str(first.pid))]
    assert "TASK" not in refused.output
    assert "Traceback" not in refused.output
    # Who only looks is not kept out.
    assert play(machines, "main.yml", "--list-tasks", prefix="sudo").returncode == 0
    checked = play(machines, "main.yml", "--tags", "prefect-worker", "--check", prefix="sudo")
    assert "on this site since" not in checked.text
    assert "TASK" in checked.output


def test_no_bundle_is_installed_under_a_playbook(machines: Machines, first: First) -> None:
    look = "sha256sum /opt/pag/manifest.json; ls -l --time-style=full-iso /opt/pag"
    before = machines.ssh(CONTROLLER, look)
    command = "bash pag-software-bundle/install-pag-controller.sh 2>&1; echo $?"
    *_, said, status = machines.ssh(CONTROLLER, command).splitlines()
    assert (status, said[:47]) == ("1", "error: a playbook is at work on this site: wait")
    assert machines.ssh(CONTROLLER, look) == before
    assert first.process.poll() is None


def test_the_second_operator_can_wait(machines: Machines, first: First, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as stream:
        second = subprocess.Popen(
            ["ssh", "-F", machines.ssh_config, CONTROLLER, command(PLAYBOOK, prefix="PAG_LOCK_WAIT=60")],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        time.sleep(4)
        waiting = second.poll() is None and "TASK" not in log.read_text()
        _go_on(machines)
        assert second.wait(timeout=60) == 0, log.read_text()
    assert waiting
    assert first.process.wait(timeout=10) == 0


def test_nothing_is_left_of_a_killed_playbook(machines: Machines, first: First) -> None:
    """Neither its forks, which wait on SSH, nor the shared SSH connections keep the lock."""
    machines.ssh(CONTROLLER, f"kill -9 {first.pid}")
    assert machines.ssh(CONTROLLER, f"pgrep -f '[a]nsible-playbook .*{PLAYBOOK}'").split(), "no fork outlived it"
    assert machines.ssh(CONTROLLER, "pgrep -f '[s]sh: .*cp/'").split(), "no shared connection outlived it"
    machines.ssh(CONTROLLER, "flock --nonblock --exclusive /opt/pag true")
