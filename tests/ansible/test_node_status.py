"""What a node's units, files and journal are read to say."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible.module_utils import node_files
from ansible.module_utils.journal import is_of_a_run
from ansible.module_utils.node_units import parse_units, runs_of

SHOWN = """\
Id=prefect-worker-cpu.service
LoadState=loaded
ActiveState=active
SubState=running
Result=success
UnitFileState=enabled
NRestarts=2
NeedDaemonReload=yes
StateChangeTimestampMonotonic=90000000
ControlGroup=/system.slice/prefect-worker-cpu.service

Id=postgresql.service
LoadState=not-found
ActiveState=inactive
SubState=dead

Id=pag-ui.socket
LoadState=loaded
ActiveState=inactive
SubState=dead
StateChangeTimestampMonotonic=0
"""


def test_units_are_those_that_are_installed() -> None:
    found = parse_units(SHOWN, 100.0)
    assert [unit["name"] for unit in found] == ["pag-ui.socket", "prefect-worker-cpu.service"]
    assert found[1] | {"control_group": ""} == {
        "name": "prefect-worker-cpu.service", "active": "active", "sub": "running", "result": "success",
        "enabled": "enabled", "restarts": 2, "reload_needed": True, "since_seconds": 10, "control_group": "",
    }  # fmt: skip
    assert found[0]["since_seconds"] is None


def _process(proc: Path, number: int, group: str, run: str | None, parent: int = 60) -> None:
    process = proc / str(number)
    process.mkdir(parents=True)
    (process / "cgroup").write_text(f"9:name=systemd:{group}\n0::/\n")
    (process / "status").write_text(f"Name:\tpython\nPPid:\t{parent}\n")
    variables = ["HOME=/opt/prefect"] + ([f"PREFECT__FLOW_RUN_ID={run}"] if run else [])
    (process / "environ").write_bytes(b"\0".join(text.encode() for text in variables) + b"\0")


def test_runs_are_told_by_their_processes(tmp_path: Path) -> None:
    group = "/system.slice/prefect-worker-cpu.service"
    _process(tmp_path, 1, group, None)
    _process(tmp_path, 2, group, "a")
    _process(tmp_path, 3, f"{group}/run-1", "a")
    _process(tmp_path, 4, f"/machine.slice/box{group}", "b")
    _process(tmp_path, 5, "/system.slice/prefect-worker-gpu.service", "other")
    (tmp_path / "6").mkdir()  # a process that has ended
    _process(tmp_path, 7, group, "ended", parent=1)
    _process(tmp_path, 8, group, "c", parent=10)
    assert runs_of(group, tmp_path) == ["a", "b", "c"]
    assert runs_of("", tmp_path) == []


def test_backups_that_are_complete_by_age(tmp_path: Path) -> None:
    for name, files in {
        "2026-11-20T021500Z": ("manifest.json", "database.dump"),
        "2026-11-21T021500Z": ("manifest.json", "database.dump"),
        "2026-11-22T021500Z": ("database.dump",),
        ".partial-2026-11-23T021500Z": ("manifest.json",),
    }.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_bytes(b"12345")
    noon = 1795262400.0  # 2026-11-21 12:00 UTC
    found = node_files.backups(tmp_path, noon)
    assert [backup["name"] for backup in found] == ["2026-11-21T021500Z", "2026-11-20T021500Z"]
    assert found[0] == {"name": "2026-11-21T021500Z", "age_seconds": 35100, "bytes": 10}
    assert node_files.backups(tmp_path / "none", noon) == []


def test_the_base_environment_is_the_complete_one_that_the_link_leads_to(tmp_path: Path) -> None:
    assert node_files.base_environment(tmp_path) is None
    assert node_files.installed_at(tmp_path) is None
    directory = tmp_path / "envs/prefect-0123456789ab"
    (directory / "env/lib/python3.11/site-packages/prefect-3.8.8.dist-info").mkdir(parents=True)
    (tmp_path / "pixi-env").symlink_to("envs/prefect-0123456789ab")
    assert node_files.base_environment(tmp_path) is None
    (directory / ".complete").touch()
    os.utime(directory / ".complete", (1000, 1000))
    assert node_files.base_environment(tmp_path) == {
        "name": "prefect", "digest": "0123456789ab", "python": "3.11", "prefect": "3.8.8",
    }  # fmt: skip
    assert node_files.installed_at(tmp_path) == 1000


def test_markers_and_the_last_upgrade(tmp_path: Path) -> None:
    assert node_files.drained(tmp_path) == []
    (tmp_path / "worker-gpu.drained").touch()
    (tmp_path / "worker-cpu.env").touch()
    assert node_files.drained(tmp_path) == ["gpu"]
    assert node_files.upgrade_state(tmp_path) is None
    for number, state in (("0001", "finished"), ("0002", "under way")):
        (tmp_path / number).mkdir()
        (tmp_path / number / "state.json").write_text(f'{{"state": "{state}"}}')
    found = node_files.upgrade_state(tmp_path)
    assert found is not None
    assert (found["state"], found["file"]) == ("under way", str(tmp_path / "0002/state.json"))


def test_file_systems_are_named_once(tmp_path: Path) -> None:
    (found,) = node_files.file_systems([str(tmp_path / "a/b"), str(tmp_path)])
    assert found["directories"] == [str(tmp_path / "a/b"), str(tmp_path)]
    assert 0 <= found["used_percent"] <= 100
    assert 0 < found["free_bytes"] <= found["bytes"]


def test_this_machine_has_memory_a_system_and_a_start() -> None:
    memory = node_files.memory()
    assert 0 < memory["available_bytes"] <= memory["bytes"]
    assert node_files.operating_system()
    assert node_files.uptime() > 0


def test_certificates_end(tmp_path: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "10", "-subj", "/CN=x"]
    try:
        subprocess.run(
            [*command, "-keyout", tmp_path / "key.pem", "-out", tmp_path / "server.crt"],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("needs openssl")
    (tmp_path / "broken.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    now = (tmp_path / "server.crt").stat().st_mtime
    broken, good = node_files.certificates(tmp_path, now)
    assert (broken["expires_seconds"], bool(broken["problem"])) == (None, True)
    assert abs(good["expires_seconds"] - 864000) < 100
    assert good["expires"].startswith("20")


def _entry(message: str, unit: str = "prefect-worker-cpu.service", **more: Any) -> dict[str, Any]:
    return {"unit": unit, "message": message, "from_unit": True, "time": 0.0} | more


@pytest.mark.parametrize(
    ("message", "of_a_run"),
    [
        ("12:00:00.000 | INFO    | prefect.worker.process.name 1 - Worker started", False),
        ("12:00:00.000 | ERROR   | prefect.flow_runs.worker - Flow run process exited with status 1", False),
        ("Worker 'pag-worker-1' started!", False),
        ("Waiting for the Prefect server: x does not answer (y).", False),
        ("The worker stops: it has no runs.", False),
        ("The run a-b is ended.", False),
        ("12:00:00.000 | INFO    | Flow run 'a-b' - anything", True),
        ("12:00:00.000 | ERROR   | Task run 'a-b' - anything", True),
        ("12:00:00.000 | INFO    | prefect.workermine - anything", True),
        ("anything", True),
        ("The run of my life is ended, and the word is", True),
        ("Traceback (most recent call last):", True),
        ("", True),
    ],
)
def test_what_runs_say_is_told_from_what_workers_say(message: str, of_a_run: bool) -> None:
    assert is_of_a_run(_entry(message)) is of_a_run
    # Not in the server's journal, and not what systemd says.
    assert not is_of_a_run(_entry(message, unit="prefect-server.service"))
    assert not is_of_a_run(_entry(message, from_unit=False))
