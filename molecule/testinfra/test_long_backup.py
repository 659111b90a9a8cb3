"""Backups and retention at a larger size, and under faults. The checks go on from one another, in this order."""

from __future__ import annotations

import json
import random
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
import server_contents
from cluster_site import SERVER, Secrets
from machines import Machines
from old_runs import OldRuns
from playbooks import CONTROLLER, DIRECTORY, Result, play, replace_machine, run
from prefect_api import PrefectApi
from scenario_log import report

BACKUPS = "/var/backups/pag"
WORKER = "pag-worker-1"
_FLOW = "my-workflow/my_workflow"


def _api(machines: Machines, secrets: Secrets, use: Callable[[PrefectApi], Any]) -> Any:
    with machines.tunnel() as port:
        return use(PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth))


def _runs(machines: Machines, secrets: Secrets) -> str:
    return str(_api(machines, secrets, lambda api: api.wait(api.start(_FLOW), timeout=90)["state_type"]))


def _listing(machines: Machines) -> list[str]:
    return machines.ssh(SERVER, f"sudo ls -A {BACKUPS}").split()


def _complete(machines: Machines) -> list[str]:
    return [name for name in _listing(machines) if name.startswith("20")]


def test_retention_of_200_000_log_entries_and_5_000_runs(machines: Machines) -> None:
    old_runs = OldRuns(machines)
    old_runs.insert(runs=5000, logs=200_000, days=120)
    before = old_runs.state()
    seconds = old_runs.retain(timeout=600)
    after = old_runs.state()
    assert (after["old"], after["orphans"]) == (0, 0)
    machines.ssh(SERVER, "cd / && sudo -u postgres vacuumdb --quiet prefect")
    emptied = old_runs.state()
    old_runs.insert(runs=5000, logs=200_000, days=30)
    refilled = old_runs.state()
    for moment, state in {"before": before, "after": after, "vacuumed": emptied, "refilled": refilled}.items():
        report(f"retention, {moment}: {json.dumps(state)}")
    report(f"retention: {seconds:.0f} s")
    # What was freed is used again; indexes over random ids are not as dense the second time.
    assert refilled["log_bytes"] < before["log_bytes"] * 1.5


def test_a_backup_of_that(machines: Machines) -> None:
    played = play(machines, "backup.yml", "-e", "backup_fetch=true")
    assert played.returncode == 0, played.output[-3000:]
    report(" ".join(re.findall(r"msg: (.*?)\n\n", played.output, re.DOTALL)))


def test_killed_at_random_moments(machines: Machines) -> None:
    """A backup that is killed leaves what was there, and the next one removes what the killed one left."""
    before = _complete(machines)
    for moment in range(8):
        machines.ssh(SERVER, "sudo systemctl start --no-block pag-backup.service")
        time.sleep(random.uniform(0.1, 4))  # noqa: S311
        machines.ssh(SERVER, "sudo systemctl kill --signal=KILL pag-backup.service", check=False)
        machines.ssh(SERVER, "while systemctl is-active --quiet pag-backup.service; do sleep 0.1; done", check=False)
        assert set(before) <= set(_complete(machines)), f"after {moment + 1} kills"
    played = play(machines, "backup.yml")
    assert played.returncode == 0, played.output[-3000:]
    assert [name for name in _listing(machines) if name.startswith((".partial", ".removed"))] == []
    for name in _complete(machines):
        assert machines.ssh(SERVER, f"sudo cat {BACKUPS}/{name}/manifest.json")


def test_a_full_disk_is_refused_beforehand(machines: Machines) -> None:
    # A small file system of its own: the machines share the host's disk.
    machines.ssh(SERVER, "sudo mkdir -p /mnt/small && sudo mount -t tmpfs -o size=60m,mode=700 small /mnt/small")
    try:
        played = play(machines, "backup.yml", "-e", "backup_directory=/mnt/small")
        assert played.returncode != 0
        assert re.search(r"/mnt/small has \d+ MiB free and the backup may take \d+ MiB", played.refusal), played.output
        assert "pag-backup.service" in machines.ssh(SERVER, "systemctl --failed --no-legend --plain")
        assert machines.ssh(SERVER, "sudo ls /mnt/small").split() == ["last.json"]
    finally:
        machines.ssh(SERVER, "sudo umount /mnt/small && sudo rmdir /mnt/small")
    assert play(machines, "backup.yml").returncode == 0
    assert "pag-backup" not in machines.ssh(SERVER, "systemctl --failed --no-legend --plain")


# Commands that succeed on the server once a restoration has come so far: anywhere, loading the dump, exchanged.
_MOMENTS = (
    "sleep $(shuf -i 10-40 -n 1)",
    "pgrep -x pg_restore",
    "cd / && sudo -u postgres psql -Atc \"SELECT shobj_description(oid, 'pg_database') FROM pg_database\" "
    "| grep -q pag:",
)


def test_a_restoration_that_is_killed_goes_on(machines: Machines, secrets: Secrets) -> None:
    _api(machines, secrets, server_contents.make)
    expected = _api(machines, secrets, lambda api: server_contents.read(api, []))
    assert play(machines, "backup.yml", "-e", "backup_fetch=true").returncode == 0
    name = _complete(machines)[-1]
    words = ["restore.yml", "-e", f"backup={name}", "-e", "restore_over=true"]
    killed = 0
    for moment in _MOMENTS:
        command = f"cd {DIRECTORY} && exec ansible-playbook -i inventory.yml {' '.join(words)}"
        process = subprocess.Popen(
            ["ssh", "-tt", "-F", machines.ssh_config, CONTROLLER, command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        look = f"sudo bash -c {shlex.quote(f'if {moment}; then echo reached; fi')}"
        # One that goes on where the last was killed may be past that, and ends by itself.
        while process.poll() is None and "reached" not in machines.ssh(SERVER, look):
            pass
        killed += process.poll() is None
        machines.ssh(CONTROLLER, "pkill -9 -x ansible-playboo", check=False)
        # What it had started on the server dies as well.
        machines.ssh(SERVER, "sudo pkill -9 -x pg_restore; sudo pkill -9 -f '^/usr/bin/python3$'", check=False)
        process.kill()
        process.wait()
    assert killed > 1
    played = play(machines, *words)
    assert played.returncode == 0, played.output[-3000:]
    assert _api(machines, secrets, lambda api: server_contents.read(api, [])) == expected
    databases = machines.ssh(SERVER, "cd / && sudo -u postgres psql -Atc 'SELECT datname FROM pg_database'").split()
    assert sorted(databases) == ["postgres", "prefect", "template0", "template1"]
    assert _runs(machines, secrets) == "COMPLETED"


@pytest.fixture(scope="module")
def new_controller(machines: Machines) -> Result:
    """How the controller's archive was put back, after the controller was lost and set up from the last bundle."""
    assert play(machines, "backup.yml").returncode == 0
    password = machines.ssh(CONTROLLER, "cat .config/pag/vault-password")
    replace_machine(machines, CONTROLLER)
    # As docs/operations.md says.
    machines.ssh(CONTROLLER, "mkdir -p .config/pag")
    machines.write(CONTROLLER, ".config/pag/vault-password", password)
    machines.copy([machines.directory / "bundle/pag-software-bundle.tar.gz"], CONTROLLER, "")
    installed = run(
        machines, "tar -xf pag-software-bundle.tar.gz && cd pag-software-bundle && bash install-pag-controller.sh"
    )
    assert installed.returncode == 0, installed.output[-3000:]
    newest = f"ls {BACKUPS}/controller/*.tar | tail -n 1"
    fetched = run(machines, f"umask 077; ssh {SERVER} \"sudo sh -c 'cat \\$({newest})'\" > controller.tar")
    assert fetched.returncode == 0, fetched.output
    put = run(
        machines,
        f"cd {DIRECTORY} && ansible-playbook -i localhost, restore-controller.yml -e archive=$HOME/controller.tar",
    )
    report(f"controller's archive put back in {put.seconds} s")
    return put


def test_a_lost_controller_is_set_up_anew(new_controller: Result, machines: Machines) -> None:
    assert new_controller.returncode == 0, new_controller.output[-3000:]
    owners = machines.ssh(CONTROLLER, f"stat -c '%U %a' {DIRECTORY}/secrets.yml {DIRECTORY}/inventory.yml").split()
    assert owners[:2] == ["operator", "600"]
    assert owners[2] == "operator"


@pytest.mark.usefixtures("new_controller")
def test_then_main_yml_changes_nothing_on_the_nodes(machines: Machines) -> None:
    played = play(machines, "main.yml")
    assert played.returncode == 0, played.output[-3000:]
    recaps = dict(re.findall(r"^(pag-\S+)\s+: ok=\d+\s+changed=(\d+)", played.output, re.MULTILINE))
    assert recaps == {SERVER: "0", WORKER: "0"}


@pytest.mark.usefixtures("new_controller")
def test_flows_are_deployed_and_a_worker_comes_back(machines: Machines, secrets: Secrets) -> None:
    flow = "$HOME/pag-software-bundle/flows/demo2"
    played = run(
        machines,
        f"cd {DIRECTORY} && ansible-playbook -i inventory.yml prefect-flow-deployment.yml -e flow_dir={flow} "
        "-e entrypoint=main.py:my_workflow -e deployment_name=after_the_loss",
    )
    assert played.returncode == 0, played.output[-3000:]
    # An empty machine in the place of the worker gets what was deployed before the loss.
    replace_machine(machines, WORKER)
    joined = play(machines, "main.yml", "--tags", "prefect-worker")
    assert joined.returncode == 0, joined.output[-3000:]
    assert _runs(machines, secrets) == "COMPLETED"


def test_a_server_at_another_address(machines: Machines, secrets: Secrets) -> None:
    expected = _api(machines, secrets, lambda api: server_contents.read(api, []))
    assert play(machines, "backup.yml", "-e", "backup_fetch=true").returncode == 0
    replace_machine(machines, SERVER, new_address=True)
    played = play(machines, "restore.yml", "-e", "backup=latest")
    assert played.returncode == 0, played.output[-3000:]
    report(f"restore of the large database onto an empty machine: {played.seconds} s")
    assert _api(machines, secrets, lambda api: server_contents.read(api, [])) == expected
    assert _runs(machines, secrets) == "COMPLETED"
