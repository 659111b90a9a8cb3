"""The modules that look at services: what runs where, what is back, what has to be reloaded."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import prefect_node_info
import prefect_worker_info
import pytest
import reload_needed

from ansible.module_utils.process_environment import environment_of

ENVIRONMENT = "prefect-000000000001"


def test_the_environment_of_a_process_is_first_in_its_path(tmp_path: Path) -> None:
    environments = Path("/opt/prefect/envs")
    (tmp_path / "environ").write_bytes(f"HOME=/\0PATH={environments}/{ENVIRONMENT}/env/bin:/usr/bin\0".encode())
    assert environment_of(tmp_path, environments) == ENVIRONMENT
    assert environment_of(tmp_path, Path("/opt/other/envs")) == ""
    assert environment_of(tmp_path / "gone", environments) == ""


def test_versions_are_those_of_complete_environments(tmp_path: Path) -> None:
    for name, version in (("prefect-1", "3.4.20"), ("prefect-2", "3.8.8")):
        (tmp_path / name / f"env/lib/python3.11/site-packages/prefect-{version}.dist-info").mkdir(parents=True)
    (tmp_path / "prefect-1/.complete").touch()
    assert prefect_node_info.versions(tmp_path) == {"prefect-1": "3.4.20"}


@pytest.mark.parametrize(
    ("worker", "running", "lacks"),
    [
        ({"status": "ONLINE", "last_heartbeat_time": "2"}, ENVIRONMENT, None),
        ({"status": "ONLINE", "last_heartbeat_time": "1"}, ENVIRONMENT, "has not heard of it since"),
        ({"status": "OFFLINE", "last_heartbeat_time": "2"}, ENVIRONMENT, "OFFLINE"),
        (
            {"status": "ONLINE", "last_heartbeat_time": "2"},
            "prefect-1",
            "does not run in",
        ),
        ({}, ENVIRONMENT, "has not heard"),
    ],
)
def test_a_worker_is_back_when_the_server_heard_of_it(worker: dict[str, str], running: str, lacks: str | None) -> None:
    said = prefect_worker_info.missing(worker, "1", running, ENVIRONMENT)
    assert said is None if lacks is None else said is not None and lacks in said


def test_the_newest_child_is_found() -> None:
    assert reload_needed.newest_child(2**31) is None
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            started = reload_needed.newest_child(os.getpid())
        finally:
            child.kill()
    assert started is not None


def test_a_file_that_was_written_later_asks_for_a_reload(tmp_path: Path) -> None:
    file = tmp_path / "prefect.conf"
    missing = tmp_path / "none"
    file.touch()
    os.utime(file, (100, 100))
    assert reload_needed.verdict("nginx.service", 90, [missing, file], 200)[0]
    assert not reload_needed.verdict("nginx.service", 110, [missing, file], 200)[0]
    # From the future, as the clock was set back.
    assert not reload_needed.verdict("nginx.service", 90, [file], 95)[0]
