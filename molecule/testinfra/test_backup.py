"""Backups: made by a timer and on demand, refused when they are not whole, and enough when the server is destroyed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import server_contents
from cluster_site import SERVER, Secrets
from machines import Machines
from playbooks import CONTROLLER, Result, play, replace_machine, run
from prefect_api import PrefectApi
from scenario_log import report
from testinfra.host import Host

DIRECTORY = "/var/backups/pag"
COPIES = f"/opt/pag/backups/{SERVER}"
_FLOW = "my-workflow/my_workflow"


@dataclass(frozen=True)
class Made:
    """A backup, and what the server had."""

    played: Result
    name: str
    contents: dict[str, Any]
    runs: list[str]
    under_way: str
    """A run that the server believed to be running, and that no worker had."""


def _api(machines: Machines, secrets: Secrets, use: Callable[[PrefectApi], Any]) -> Any:
    with machines.tunnel() as port:
        return use(PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth))


@pytest.fixture(scope="module")
def made(machines: Machines, secrets: Secrets) -> Made:
    """A backup that was copied to the controller, after runs, a variable, a limit and a secret block were made."""

    if _FLOW.split("/")[1] not in _api(machines, secrets, lambda api: [entry["name"] for entry in api.deployments()]):
        flow = ["-e", "flow_dir=../flows/demo2", "-e", "entrypoint=main.py:my_workflow"]
        deployed = play(machines, "prefect-flow-deployment.yml", *flow)
        assert deployed.returncode == 0, deployed.output[-3000:]

    def prepare(api: PrefectApi) -> tuple[list[str], str, dict[str, Any]]:
        server_contents.make(api)
        runs = [api.start(_FLOW)]
        for entry in runs:
            assert api.wait(entry)["state_type"] == "COMPLETED"
            # The last of what it logged is on its way for a moment.
            deadline = time.monotonic() + 30
            while "Finished in state" not in api.logs(entry):
                assert time.monotonic() < deadline
                time.sleep(0.5)
        lost = api.start(_FLOW, delay=3600)
        running = {"state": {"type": "RUNNING", "name": "Running"}, "force": True}
        api.request("POST", f"/flow_runs/{lost}/set_state", running)
        return runs, lost, server_contents.read(api, runs)

    runs, lost, contents = _api(machines, secrets, prepare)
    played = play(machines, "backup.yml", "-e", "backup_fetch=true")
    names = machines.ssh(CONTROLLER, f"ls {COPIES}").split()
    return Made(played, names[-1] if names else "", contents, runs, lost)


def test_the_timer_will_make_one(on: Callable[[str], Host]) -> None:
    server = on(SERVER)
    timer = server.check_output(
        "systemctl show pag-backup.timer --property=ActiveState,UnitFileState,NextElapseUSecRealtime"
    )
    assert "ActiveState=active" in timer
    assert "UnitFileState=enabled" in timer
    assert re.search(r"NextElapseUSecRealtime=\S+", timer)
    service = "systemctl show pag-backup.service --property=Type,ProtectSystem,NoNewPrivileges,PrivateNetwork"
    assert sorted(server.check_output(service).split()) == [
        "NoNewPrivileges=yes",
        "PrivateNetwork=yes",
        "ProtectSystem=strict",
        "Type=oneshot",
    ]


def test_a_backup_is_made_and_said(made: Made) -> None:
    assert made.played.returncode == 0, made.played.output[-3000:]
    said = " ".join(made.played.output.split())
    assert re.search(rf"{DIRECTORY}/\S+ has \d+ bytes, made and verified in [\d.]+ s", said)


def test_it_is_for_root_alone_and_names_what_it_has(made: Made, on: Callable[[str], Host]) -> None:
    server = on(SERVER)
    for path in (DIRECTORY, f"{DIRECTORY}/{made.name}"):
        directory = server.file(path)
        assert (directory.user, directory.mode) == ("root", 0o700)
    manifest = json.loads(server.check_output(f"cat {DIRECTORY}/{made.name}/manifest.json"))
    assert {entry["path"] for entry in manifest["files"]} >= {
        "database.dump",
        "deployments.json",
        "environments.json",
        "settings/server.env",
    }
    assert manifest["rows"]["deployment"] == len(made.contents["deployments"])
    assert manifest["encryption_key"]["place"] == "database"
    tables = server.check_output(f"pg_restore --list {DIRECTORY}/{made.name}/database.dump")
    assert "TABLE DATA public flow_run " in tables


def test_the_controller_has_it_too(made: Made, machines: Machines) -> None:
    owner = machines.ssh(CONTROLLER, f"stat -c '%U %a' {COPIES} {COPIES}/{made.name}/database.dump").split()
    assert owner == ["operator", "700", "operator", "600"]
    there = machines.ssh(SERVER, f"sudo sha256sum {DIRECTORY}/{made.name}/database.dump").split()[0]
    assert machines.ssh(CONTROLLER, f"sha256sum {COPIES}/{made.name}/database.dump").split()[0] == there


def test_with_the_setting_a_timer_copies_them(made: Made, machines: Machines, on: Callable[[str], Host]) -> None:
    """All that main.yml does before this is what it always does."""
    begin = ("--tags", "prefect-server", "--start-at-task", "Copy the backups to the controller by a timer, or not")
    played = play(machines, "main.yml", *begin, "-e", "backup_to_controller=true")
    assert played.returncode == 0, played.output[-3000:]
    controller, server = on(CONTROLLER), on(SERVER)
    timer = "systemctl show pag-backup-fetch.timer --property=ActiveState,UnitFileState,NextElapseUSecRealtime"
    shown = controller.check_output(timer)
    assert "ActiveState=active" in shown
    assert "UnitFileState=enabled" in shown
    assert re.search(r"NextElapseUSecRealtime=\S+", shown)
    # What the two timers do at night.
    machines.ssh(SERVER, "sudo systemctl start pag-backup.service")
    newest = server.check_output(f"ls {DIRECTORY} | grep '^[0-9]' | tail -1")
    assert newest > made.name
    machines.ssh(CONTROLLER, "sudo systemctl start pag-backup-fetch.service")
    copied = f"{COPIES}/{newest}/database.dump"
    assert machines.ssh(CONTROLLER, f"stat -c '%U %a' {copied}").split() == ["operator", "600"]
    there = server.check_output(f"sha256sum {DIRECTORY}/{newest}/database.dump").split()[0]
    assert machines.ssh(CONTROLLER, f"sha256sum {copied}").split()[0] == there
    assert play(machines, "main.yml", *begin).returncode == 0
    assert not controller.check_output("systemctl list-unit-files --no-legend 'pag-backup-fetch*' || true")


def test_a_damaged_backup_is_refused(made: Made, machines: Machines) -> None:
    """Every other kind of damage is a unit test's."""
    machines.ssh(
        CONTROLLER, f"rm -rf damaged && cp -r {COPIES}/{made.name} damaged && truncate -s -100 damaged/database.dump"
    )
    path = machines.ssh(CONTROLLER, "realpath damaged").strip()
    played = play(machines, "restore.yml", "-e", f"backup={path}", "-e", "restore_over=true")
    assert played.returncode != 0
    assert re.search(r"database\.dump has \d+ bytes and not \d+: take another backup", played.refusal), played.output[
        -2000:
    ]
    assert played.changes == 0


def test_a_server_in_use_is_not_replaced_by_accident(made: Made, machines: Machines) -> None:
    played = play(machines, "restore.yml", "-e", f"backup={made.name}")
    assert played.returncode != 0
    assert "holds flows, runs, variables or blocks: add -e restore_over=true" in played.refusal
    assert played.changes == 0


@pytest.fixture(scope="module")
def restored(made: Made, machines: Machines) -> Result:
    """How restoring onto an empty machine went, after the server was destroyed."""
    replace_machine(machines, SERVER)
    played = play(machines, "restore.yml", "-e", "backup=latest")
    report(f"restore onto an empty machine: {played.seconds} s")
    return played


def test_a_destroyed_server_comes_back(restored: Result, made: Made, machines: Machines, secrets: Secrets) -> None:
    assert restored.returncode == 0, restored.output[-3000:]
    contents = _api(machines, secrets, lambda api: server_contents.read(api, made.runs))
    assert contents == made.contents


def test_a_run_that_nobody_has_is_crashed(restored: Result, made: Made, machines: Machines, secrets: Secrets) -> None:
    found = _api(machines, secrets, lambda api: api.request("GET", f"/flow_runs/{made.under_way}"))
    assert found["state_type"] == "CRASHED"
    assert "was under way when the backup of" in found["state"]["message"]
    assert found["name"] in restored.output


@pytest.mark.usefixtures("restored")
def test_the_workers_go_on(machines: Machines, secrets: Secrets) -> None:
    def start(api: PrefectApi) -> str:
        return str(api.wait(api.start(_FLOW), timeout=60)["state_type"])

    assert _api(machines, secrets, start) == "COMPLETED"


@pytest.mark.usefixtures("restored")
def test_nothing_of_this_is_left(machines: Machines, secrets: Secrets) -> None:
    """The checks that follow find the cluster as these found it."""
    _api(machines, secrets, server_contents.remove)
    run(machines, "rm -rf damaged")
    databases = machines.ssh(SERVER, "cd / && sudo -u postgres psql -Atc 'SELECT datname FROM pg_database'").split()
    assert sorted(databases) == ["postgres", "prefect", "template0", "template1"]
    latest = machines.ssh(CONTROLLER, f"ls {COPIES}").split()[-1]
    assert machines.ssh(SERVER, f"sudo ls -A {DIRECTORY}").split().count(latest) == 1
