"""Who may reach what: every port of the nodes, from a machine that does not belong and from one that does."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import playbooks
import port_scan
import pytest
from cluster_site import CPU_WORKERS, SERVER
from machines import Machines

WORKER, OTHER = CPU_WORKERS
_LISTENER = "pag-test-listener"
_PORT = 18000


def from_outside(machines: Machines, name: str) -> list[int]:
    """Scan a machine from the host, which is on the network and not in the inventory."""
    return port_scan.open_ports(machines.addresses()[name])


def from_a_node(machines: Machines, node: str, name: str) -> list[int]:
    """Scan a machine from one of the cluster's."""
    program = Path(port_scan.__file__).read_text()
    return [int(port) for port in machines.ssh(node, f"python3 - {machines.addresses()[name]}", stdin=program).split()]


@pytest.fixture(scope="module")
def listening(machines: Machines) -> Iterator[None]:
    """A program that is not ours offers something on the network, on the server and on a worker."""
    for name in (SERVER, WORKER):
        command = f"sudo systemd-run --quiet --unit={_LISTENER} /usr/bin/python3 -m http.server {_PORT} --bind 0.0.0.0"
        machines.ssh(name, command)
        machines.ssh(name, f"until ss -Hltn sport = :{_PORT} | grep -q .; do sleep 0.1; done")
    yield
    for name in (SERVER, WORKER):
        machines.ssh(name, f"sudo systemctl stop {_LISTENER}")


def test_a_machine_that_does_not_belong_reaches_ssh_alone(listening: None, machines: Machines) -> None:
    del listening
    assert {name: from_outside(machines, name) for name in (SERVER, WORKER)} == {SERVER: [22], WORKER: [22]}


def test_a_node_reaches_the_api_too(listening: None, machines: Machines) -> None:
    del listening
    assert from_a_node(machines, OTHER, SERVER) == [22, 4200]


def rules(machines: Machines, *variables: str) -> playbooks.Result:
    """Write the server's rules, as main.yml does, and nothing else."""
    role = "ansible pag-server -i inventory.yml --become -m include_role -a 'name=firewall tasks_from=rules'"
    extra = " ".join(f"-e {shlex.quote(variable)}" for variable in variables)
    return playbooks.run(machines, f"cd {playbooks.DIRECTORY} && {role} {extra}")


def test_a_port_of_the_sites_own_can_be_opened(listening: None, machines: Machines) -> None:
    del listening
    opened = rules(machines, f'{{"firewall_allowed": [{{"port": {_PORT}}}]}}')
    assert opened.returncode == 0, opened.output[-3000:]
    assert from_outside(machines, SERVER) == [22, _PORT]


def test_the_unit_takes_the_table_away_and_brings_it_back(machines: Machines) -> None:
    ask = "sudo nft list tables inet"
    machines.ssh(WORKER, "sudo systemctl stop pag-firewall.service")
    assert "inet pag" not in machines.ssh(WORKER, ask)
    machines.ssh(WORKER, "sudo systemctl start pag-firewall.service")
    assert "inet pag" in machines.ssh(WORKER, ask)
    assert machines.ssh(WORKER, "systemctl is-enabled pag-firewall.service").strip() == "enabled"


def test_rules_that_lock_everybody_out_are_taken_away(machines: Machines) -> None:
    # Another port of SSH than the real one: the new login fails, and the node opens itself.
    assert rules(machines, "firewall_ssh_port=2222", "firewall_confirm_seconds=20").returncode != 0
    machines.ssh("pag-controller", f"until timeout 2 bash -c '</dev/tcp/{SERVER}/22'; do sleep 1; done 2>/dev/null")
    assert "inet pag" not in machines.ssh(SERVER, "sudo nft list tables inet")
    # As it was before: without the port that was opened above, too.
    assert rules(machines).returncode == 0
    assert from_outside(machines, SERVER) == [22]


def test_no_packet_is_lost_to_the_nodes_own_programs(machines: Machines) -> None:
    # The API answers on the server's own address, too.
    command = ["ssh", "-F", machines.ssh_config, SERVER, f"bash -c '</dev/tcp/{machines.addresses()[SERVER]}/4200'"]
    assert subprocess.run(command, check=False).returncode == 0


def answer(machines: Machines, line: str, question: str, text: str) -> str:
    """Run a line of shell at a terminal of the controller, answer its question, and return what it printed."""
    command = ["ssh", "-tt", "-F", machines.ssh_config, "pag-controller", line]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        printed = b""
        # What is typed before the question is thrown away.
        while question.encode() not in printed and (piece := os.read(process.stdout.fileno(), 4096)):
            printed += piece
        time.sleep(1)
        printed += process.communicate(text.encode(), timeout=120)[0]
    assert process.returncode == 0, printed.decode()[-2000:]
    return printed.decode()


def test_host_keys_are_learned_after_a_yes(machines: Machines) -> None:
    """As the README says, at a terminal; the machines' keys are in the controller's own file, and are left out here."""
    play = (
        f"cd {playbooks.DIRECTORY} && rm -f ~/known && "
        "ansible-playbook -i inventory.yml ssh-hosts.yml -e ssh_hosts_path=$HOME/known -e ssh_hosts_known_files=[]"
    )
    refused = playbooks.run(machines, play)
    assert refused.returncode != 0
    assert "no key was written" in refused.text
    printed = answer(machines, play, "Type yes when they are the same", "yes\r")
    own = machines.ssh(SERVER, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").split()[1]
    assert own in printed
    known = machines.ssh("pag-controller", "cat ~/known")
    assert all(name in known for name in (SERVER, WORKER, OTHER))
    assert playbooks.run(machines, f"{play.replace('rm -f ~/known && ', '')}").changes == 0
    swap = machines.ssh(OTHER, "cut -d ' ' -f 1-2 /etc/ssh/ssh_host_ed25519_key.pub").strip()
    machines.ssh("pag-controller", f"sed -i '/^{WORKER} ssh-ed25519/c {WORKER} {swap}' ~/known")
    changed = playbooks.run(machines, play.replace("rm -f ~/known && ", ""))
    assert changed.returncode != 0
    assert f"{WORKER} has the keys" in changed.text
    machines.ssh("pag-controller", "rm ~/known")
