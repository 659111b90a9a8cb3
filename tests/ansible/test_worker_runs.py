"""The worker's record of its runs, what keeps it from taking runs, and waiting for it."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
import worker_runs

from ansible.module_utils.worker_holds import HOLD_SECONDS, Holds
from ansible.module_utils.worker_record import Record


@pytest.fixture
def record(tmp_path: Path) -> Record:
    (tmp_path / "var/lib/prefect-worker-cpu").mkdir(parents=True)
    opened = Record.of("cpu", tmp_path)
    opened.open()
    return opened


def test_a_run_is_recorded_from_its_beginning_to_its_end(record: Record) -> None:
    record.begin("a", "brave-beaver")
    assert [(entry.name, entry.pid) for entry in record.under_way()] == [("brave-beaver", None)]
    record.started("a", os.getpid())
    (entry,) = record.under_way()
    assert (entry.id, entry.name, entry.pid) == ("a", "brave-beaver", os.getpid())
    assert time.time() - entry.since < 60
    record.end("a")
    assert (record.under_way(), record.lost()) == ([], [])


def test_a_run_whose_process_has_ended_is_not_under_way(record: Record) -> None:
    """Prefect waits for programs that the process left in the background; nobody else does."""
    process = subprocess.Popen(["true"])
    process.wait()
    record.begin("a", "brave-beaver")
    record.started("a", process.pid)
    assert (record.under_way(), [entry.id for entry in record.unsettled()]) == ([], ["a"])
    record.open()
    assert [entry.id for entry in record.lost()] == ["a"]


def test_the_next_worker_finds_what_was_under_way(record: Record) -> None:
    record.begin("a", "brave-beaver")
    record.open()
    assert record.under_way() == []
    assert [entry.id for entry in record.lost()] == ["a"]
    record.reported("a")
    assert record.lost() == []


def test_a_file_that_a_power_failure_emptied_is_a_run_too(record: Record, tmp_path: Path) -> None:
    record.begin("a", "brave-beaver")
    (tmp_path / "var/lib/prefect-worker-cpu/runs/a.json").write_text("")
    record.open()
    assert [(entry.id, entry.pid) for entry in record.lost()] == [("a", None)]


def test_a_run_that_is_taken_again_is_under_way_and_lost(record: Record) -> None:
    record.begin("a", "brave-beaver")
    record.lose("a")
    record.begin("a", "brave-beaver")
    record.reported("a")
    assert [entry.id for entry in record.under_way()] == ["a"]


def test_a_hold_ends_by_itself_and_a_drain_does_not(tmp_path: Path) -> None:
    holds = Holds.of("cpu", tmp_path)
    for path in (holds.hold, holds.drained):
        path.parent.mkdir(parents=True)
    assert holds.reason() is None
    holds.hold.touch()
    assert holds.reason() == "it is about to be restarted"
    old = time.time() - HOLD_SECONDS - 1
    os.utime(holds.hold, (old, old))
    assert holds.reason() is None
    holds.drained.touch()
    os.utime(holds.drained, (old, old))
    assert holds.reason() == "it is drained"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(worker_runs.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(worker_runs.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def test_waiting_ends_with_the_last_run_and_holds_until_then(clock: list[float]) -> None:
    held: list[float] = []
    left = worker_runs.wait(lambda: ["a"] if clock[0] < 30 else [], lambda: held.append(clock[0]), 3600)
    assert (left, clock[0]) == ([], 30)
    assert held[0] == 0
    assert max(held[index + 1] - held[index] for index in range(len(held) - 1)) < HOLD_SECONDS / 2


def test_waiting_ends_with_its_limit(clock: list[float]) -> None:
    assert worker_runs.wait(lambda: ["a"], lambda: None, 20) == ["a"]
    assert clock[0] == 20


def test_a_run_that_is_recorded_after_the_first_look_counts(clock: list[float]) -> None:
    """The worker may have been about to take it when it was held."""
    assert worker_runs.wait(lambda: ["a"] if clock[0] > 0.5 else [], lambda: None, 10) == ["a"]
