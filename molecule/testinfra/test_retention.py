"""Runs that ended long ago go with their logs; what has not ended stays, and what is young."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from machines import Machines
from old_runs import OldRuns
from prefect_api import ApiError, PrefectApi


@pytest.fixture(scope="module")
def old_runs(machines: Machines) -> Iterator[OldRuns]:
    made = OldRuns(machines)
    made.insert(runs=200, logs=10_000, days=120)
    made.insert(runs=100, logs=1_000, days=30)
    made.insert_running(days=120)
    yield made
    made.remove()


@pytest.fixture(scope="module")
def states(old_runs: OldRuns) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rows before and after."""
    before = old_runs.state()
    seconds = old_runs.retain(timeout=25)
    after = old_runs.state()
    print(f"retention: {seconds:.1f} s, {before} -> {after}")
    return before, after


def test_old_runs_go_with_their_logs(states: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, after = states
    assert before["old"] == 200
    assert after["old"] == 0
    assert after["orphans"] == 0
    # Other runs of the cluster may have logged meanwhile.
    assert before["logs"] - after["logs"] > 9_000


def test_a_run_that_has_not_ended_keeps_its_logs(states: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert states[1]["running_logs"] == 1


def test_young_runs_stay(states: tuple[dict[str, Any], dict[str, Any]], old_runs: OldRuns) -> None:
    assert old_runs.sql("SELECT count(*) FROM flow_run WHERE name LIKE 'old-%'").strip() == "100"
    assert states[0]["runs"] - states[1]["runs"] <= 200


@pytest.mark.usefixtures("states")
def test_the_server_works_afterwards(api: PrefectApi) -> None:
    for _ in range(20):
        try:
            assert api.work_pools()
        except ApiError:
            time.sleep(0.5)
            continue
        return
    pytest.fail("the server does not answer")
