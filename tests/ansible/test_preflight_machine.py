"""What a machine is like: each check speaks up when it should, and only then."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ansible.module_utils import preflight_machine as machine

FACTS: dict[str, Any] = {"memory": 2000, "processors": 2, "systemd": "252", "cgroup": "2", "write_milliseconds": 2.0}


def test_facts_are_those_of_this_machine(tmp_path: Path) -> None:
    facts = machine.machine_facts(tmp_path / "not" / "there", measure=True)
    assert facts["processors"] >= 1
    assert facts["memory"] > 100
    assert facts["write_milliseconds"] is None or facts["write_milliseconds"] > 0
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.tempfile, "TemporaryFile", lambda **_: pytest.fail("a file was made"))
    assert machine.machine_facts(tmp_path, measure=False)["write_milliseconds"] is None


@pytest.mark.parametrize(
    ("minimum", "recommended", "processors", "expected"),
    [
        (2000, 2000, 2, []),
        (2001, 4000, 1, [("has 2000 MB of memory, 2001 MB are needed: give it more.", True)]),
        (1000, 4000, 1, [("has 2000 MB of memory; 4000 MB are recommended.", False)]),
        (1000, 1000, 4, [("has 2 processors; 4 are recommended.", False)]),
    ],
)
def test_too_little_is_a_problem_and_less_than_recommended_is_not(
    minimum: int, recommended: int, processors: int, expected: list[tuple[str, bool]]
) -> None:
    assert list(machine.check_size(FACTS, minimum, recommended, processors)) == expected


def _mounted(monkeypatch: pytest.MonkeyPatch, flags: int = 0, files: int = 10**6, free: int = 10**6) -> None:
    status = os.statvfs("/")
    values = list(status)
    values[5:10] = [files, free, free, flags, 255]
    monkeypatch.setattr(machine.os, "statvfs", lambda _: os.statvfs_result(values))


def test_a_usual_file_system_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _mounted(monkeypatch)
    assert list(machine.check_disks([str(tmp_path)])) == []


@pytest.mark.parametrize(
    ("mounted", "words"),
    [
        ({"flags": os.ST_NOEXEC}, "is mounted with noexec"),
        ({"flags": os.ST_RDONLY}, "is mounted read-only"),
        ({"free": 49_999}, "has 49999 free inodes below"),
    ],
)
def test_where_nothing_can_be_installed_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounted: dict[str, int], words: str
) -> None:
    _mounted(monkeypatch, **mounted)
    # Two directories of one file system are one problem.
    (problem,) = machine.check_disks([str(tmp_path / "a"), str(tmp_path / "b")])
    assert words in problem


def test_a_file_system_without_a_number_of_inodes_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _mounted(monkeypatch, files=0, free=0)
    assert list(machine.check_disks([str(tmp_path)])) == []


def test_another_first_process_is_a_problem() -> None:
    assert list(machine.check_systemd(FACTS)) == []
    assert "is not systemd" in next(machine.check_systemd(FACTS | {"systemd": ""}))


def test_a_slow_disk_is_a_warning() -> None:
    assert list(machine.warn_of_slow_disk(FACTS, "/")) == []
    assert list(machine.warn_of_slow_disk(FACTS | {"write_milliseconds": None}, "/")) == []
    assert "takes 80.0 ms" in next(machine.warn_of_slow_disk(FACTS | {"write_milliseconds": 80.0}, "/"))


def test_limits_that_are_not_enforced_are_a_warning(tmp_path: Path) -> None:
    controllers = tmp_path / "cgroup.controllers"
    controllers.write_text("cpu memory pids\n")
    assert list(machine.warn_of_limits(tmp_path)) == []
    controllers.write_text("cpu pids\n")
    assert list(machine.warn_of_limits(tmp_path)) == [
        "cannot enforce limits of memory on services and runs (cgroup 2)."
    ]


def test_both_kinds_of_control_groups_are_told_apart(tmp_path: Path) -> None:
    assert machine.cgroup_version(tmp_path) == "1"
    (tmp_path / "unified").mkdir()
    assert machine.cgroup_version(tmp_path) == "1 and 2"
    assert "memory and pids" in next(machine.warn_of_limits(tmp_path))


def test_a_umask_that_hides_files_is_a_warning() -> None:
    before = os.umask(0o077)
    try:
        (warning,) = machine.warn_of_umask()
        assert os.umask(0o022) == 0o077
        assert list(machine.warn_of_umask()) == []
    finally:
        os.umask(before)
    assert "umask is 0077" in warning


def test_enforced_selinux_is_a_warning(tmp_path: Path) -> None:
    assert list(machine.warn_of_security_modules(tmp_path)) == []
    (tmp_path / "enforce").write_text("1")
    assert "SELinux" in next(machine.warn_of_security_modules(tmp_path))


def test_gpus_where_none_can_be_found_are_a_warning() -> None:
    nothing: dict[str, Any] = {"devices": [], "gpus": [], "amd": 0}
    assert "for GPU 1, 2 of worker_gpu_ids" in next(machine.warn_of_gpus(["1", "2"], nothing))
    assert list(machine.warn_of_gpus([], nothing)) == []
    assert list(machine.warn_of_gpus(["0"], nothing | {"devices": ["0"]})) == []


def test_few_ssh_sessions_are_a_warning() -> None:
    assert list(machine.warn_of_ssh("port 22\nmaxsessions 10\n")) == []
    assert list(machine.warn_of_ssh("")) == []
    assert "allows 1 sessions" in next(machine.warn_of_ssh("maxsessions 1\n"))
