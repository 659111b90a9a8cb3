"""Whether a unit runs with older files than those on disk, from what systemd says and when files were written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import unit_restart_needed

NOW, UPTIME = 1_800_000_000.0, 50_000.0
AGE = 600.0
"""Seconds since the unit's start."""


@pytest.fixture
def unit(tmp_path: Path) -> dict[str, str]:
    """What systemd says of a unit that has been running for ten minutes, with all its files written before."""
    for name in ("worker.service", "limits.conf", "worker.env"):
        _write(tmp_path / name, AGE + 60)
    return unit_restart_needed.properties_of(
        "ActiveState=active\nLoadState=loaded\nNeedDaemonReload=no\n"
        f"FragmentPath={tmp_path}/worker.service\nDropInPaths={tmp_path}/limits.conf\n"
        f"ExecMainStartTimestampMonotonic={int((UPTIME - AGE) * 1e6)}\n"
    )


def _write(file: Path, age: float) -> None:
    file.touch()
    os.utime(file, (NOW - age, NOW - age))


def _verdict(unit: dict[str, str], *files: Path) -> tuple[bool, str]:
    return unit_restart_needed.verdict("worker.service", unit, [str(file) for file in files], NOW, UPTIME)


def test_a_unit_that_was_started_after_its_files_needs_none(unit: dict[str, str], tmp_path: Path) -> None:
    needed, reason = _verdict(unit, tmp_path / "worker.env", tmp_path / "is-not-there")
    assert not needed
    assert reason == "worker.service was started after its files were written."


@pytest.mark.parametrize("name", ["worker.service", "limits.conf", "worker.env"])
def test_any_file_that_is_newer_needs_one(unit: dict[str, str], tmp_path: Path, name: str) -> None:
    _write(tmp_path / name, AGE - 10)
    needed, reason = _verdict(unit, tmp_path / "worker.env")
    assert needed
    assert reason == f"{tmp_path / name} was written 10 s after worker.service was started."


def test_a_unit_file_that_systemd_has_not_read_needs_one(unit: dict[str, str]) -> None:
    needed, reason = _verdict({**unit, "NeedDaemonReload": "yes"})
    assert needed
    assert "another unit file" in reason


@pytest.mark.parametrize("state", ["inactive", "failed"])
def test_what_does_not_run_needs_none(unit: dict[str, str], tmp_path: Path, state: str) -> None:
    _write(tmp_path / "worker.env", 1)
    unit |= {"ActiveState": state, "NeedDaemonReload": "yes"}
    assert _verdict(unit, tmp_path / "worker.env") == (False, "worker.service is not running.")


def test_a_time_in_the_future_does_not_restart_over_and_over(unit: dict[str, str], tmp_path: Path) -> None:
    _write(tmp_path / "worker.env", -3600)
    assert not _verdict(unit, tmp_path / "worker.env")[0]
