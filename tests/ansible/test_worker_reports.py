"""What a worker tells the server of its runs, and what it does about those that were lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ANSIBLE

from ansible.module_utils.prefect_api import PrefectUnreachableError
from ansible.module_utils.worker_record import Record

sys.path.insert(0, str(ANSIBLE / "roles/prefect_worker/files/worker"))

from pag_worker.reports import Reports
from pag_worker.survey import survey

MINE = {"prefect.worker.name": "node-1", "prefect.work-pool.name": "cpu-pool"}


class FakeServer:
    """The part of the API that a worker's reports use."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.heartbeats: list[str] = []
        self.logs: list[dict[str, Any]] = []
        self.away = False
        self.states: dict[str, list[dict[str, Any]]] = {}
        self.before_set: Callable[[str], None] = lambda _: None

    def add(self, name: str, state: str = "RUNNING", message: str = "", age: float = 60, **fields: Any) -> None:
        timestamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - age))
        defaults = {"labels": MINE, "tags": [], "deployment_id": "d", "parent": None, "name": name}
        self.runs[name] = {"id": name, **defaults, **fields}
        self.say(name, state, message, timestamp=timestamp)

    def say(self, run: str, state: str, message: str = "", /, **fields: Any) -> None:
        """Give a run a state, as the run itself does, or an automation."""
        states = self.states.setdefault(run, [])
        states.append({"id": f"{run}-{len(states)}", "type": state, "message": message, **fields})
        self.runs[run] |= {"state": states[-1], "state_type": state}

    def request(self, method: str, path: str, body: Any = None) -> Any:
        if self.away:
            raise PrefectUnreachableError("The Prefect server does not answer.")
        if path == "/events":
            self.heartbeats += [event["resource"]["prefect.resource.id"].split(".")[-1] for event in body]
            return None
        if path == "/logs/":
            self.logs += body
            return None
        if path == "/flow_runs/filter":
            asked = body["flow_runs"]
            if "id" in asked:
                return [dict(self.runs[name]) for name in asked["id"]["any_"] if name in self.runs]
            parents, types = asked["parent_flow_run_id"]["any_"], asked["state"]["type"]["any_"]
            found = [run for run in self.runs.values() if run["parent"] in parents and run["state_type"] in types]
            return found[body["offset"] : body["offset"] + body["limit"]]
        if path.startswith("/flow_run_states/"):
            return list(self.states[path.partition("=")[2]])
        assert (method, body["force"]) == ("POST", True)
        run, state = path.split("/")[2], dict(body["state"])
        self.before_set(run)
        self.say(run, state.pop("type"), state.pop("message"), **state)
        return None

    def state(self, name: str) -> tuple[str, str]:
        return self.runs[name]["state_type"], self.runs[name]["state"]["message"]


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def reports(server: FakeServer) -> Reports:
    return Reports(server, "node-1", "cpu-pool")  # type: ignore[arg-type]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    opened = Record(tmp_path)
    opened.open()
    return opened


def _under_way(record: Record, *runs: str) -> None:
    for run in runs:
        record.begin(run, run)
        record.started(run, os.getpid())


def _lost(record: Record, *runs: str) -> None:
    _under_way(record, *runs)
    record.open()


def test_it_vouches_for_its_runs_and_those_that_they_called(
    server: FakeServer, reports: Reports, record: Record
) -> None:
    server.add("a")
    server.add("called", parent="a", deployment_id=None)
    server.add("called-too", "PENDING", parent="called", deployment_id=None)
    server.add("ended", "COMPLETED", parent="a", deployment_id=None)
    server.add("on-another-worker", parent="a", deployment_id="d")
    _under_way(record, "a")
    assert survey(record, reports, "node-1") == []
    assert server.heartbeats == ["a", "called", "called-too"]


def test_it_vouches_for_a_run_that_begins_and_asks_nothing(server: FakeServer, reports: Reports) -> None:
    # The server does not know it: it would have no answer to a question.
    reports.vouch_for_new("a", "its-name", ["tag"])
    assert server.heartbeats == ["a"]


def test_it_vouches_for_no_run_whose_process_has_ended(server: FakeServer, reports: Reports, record: Record) -> None:
    server.add("a")
    process = subprocess.Popen(["true"])
    process.wait()
    record.begin("a", "a")
    record.started("a", process.pid)
    survey(record, reports, "node-1")
    assert server.heartbeats == []


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", "CANCELLED"])
def test_it_vouches_for_no_run_that_has_ended(server: FakeServer, reports: Reports, record: Record, state: str) -> None:
    server.add("a", state)
    _under_way(record, "a")
    survey(record, reports, "node-1")
    assert (server.heartbeats, server.runs["a"]["state_type"]) == ([], state)


@pytest.mark.parametrize(("suspended", "heartbeats"), [(False, ["a", "called"]), (True, [])])
def test_it_vouches_for_a_run_that_waits_for_an_approval_and_not_for_a_suspended_one(
    server: FakeServer, reports: Reports, record: Record, suspended: bool, heartbeats: list[str]
) -> None:
    server.add("a")
    server.say("a", "PAUSED", state_details={"pause_reschedule": suspended})
    server.add("called", parent="a", deployment_id=None)
    server.say("called", "PAUSED", state_details={"pause_reschedule": False})
    _under_way(record, "a")
    survey(record, reports, "node-1")
    assert (server.heartbeats, server.runs["a"]["state_type"]) == (heartbeats, "PAUSED")


def test_a_run_that_was_given_up_while_it_waited_for_an_approval_waits_for_it_again(
    server: FakeServer, reports: Reports, record: Record
) -> None:
    server.add("a")
    details = {"pause_reschedule": False, "pause_key": "approval"}
    server.say("a", "PAUSED", name="Paused", state_details=details)
    server.say("a", "CRASHED", SILENCE)
    server.say("a", "SCHEDULED", "Lost: scheduled again, as its tag says.")
    _under_way(record, "a")
    survey(record, reports, "node-1")
    assert server.state("a")[0] == "PAUSED"
    assert server.runs["a"]["state"]["state_details"] == details


def test_a_run_that_waited_for_an_approval_when_its_worker_was_killed_is_lost(
    server: FakeServer, reports: Reports, record: Record
) -> None:
    server.add("a")
    server.say("a", "PAUSED", state_details={"pause_reschedule": False})
    _lost(record, "a")
    survey(record, reports, "node-1")
    assert server.runs["a"]["state_type"] == "CRASHED"


def test_it_vouches_for_more_called_runs_than_the_server_gives_at_once(
    server: FakeServer, reports: Reports, record: Record
) -> None:
    server.add("a")
    called = [f"called-{number:03}" for number in range(450)]
    for name in called:
        server.add(name, parent="a", deployment_id=None)
    _under_way(record, "a")
    survey(record, reports, "node-1")
    assert sorted(server.heartbeats) == ["a", *called]


@pytest.mark.parametrize(
    ("state", "message", "after"),
    [
        ("CRASHED", "Lost: no sign of life from its worker for 180 s.", "RUNNING"),
        ("SCHEDULED", "Lost: scheduled again, as its tag says.", "RUNNING"),
        ("CRASHED", "Flow run encountered an exception.", "CRASHED"),
        ("SCHEDULED", "Retries 1 of 3", "SCHEDULED"),
    ],
)
def test_a_run_that_was_given_up_by_mistake_is_running_again(
    server: FakeServer, reports: Reports, record: Record, state: str, message: str, after: str
) -> None:
    server.add("a", state, message)
    _under_way(record, "a")
    survey(record, reports, "node-1")
    assert server.runs["a"]["state_type"] == after


SILENCE = "Lost: no sign of life from its worker for 180 s."


def test_a_run_that_ended_while_its_worker_looked_is_not_running_again(server: FakeServer, reports: Reports) -> None:
    server.add("a", "CRASHED", SILENCE)
    seen = dict(server.runs["a"])
    server.say("a", "COMPLETED", data="the result")
    assert not reports.restore(seen)
    assert [state["type"] for state in server.states["a"]] == ["CRASHED", "COMPLETED"]


def test_an_end_that_comes_in_the_very_moment_of_vouching_stands(server: FakeServer, reports: Reports) -> None:
    server.add("a", "CRASHED", SILENCE)

    def ends(name: str) -> None:
        server.before_set = lambda _: None
        server.say(name, "COMPLETED", "All well.", name="Completed", data="the result")

    server.before_set = ends
    assert not reports.restore(server.runs["a"])
    assert server.state("a") == ("COMPLETED", "All well.")
    assert server.runs["a"]["state"]["data"] == "the result"
    assert [state["type"] for state in server.states["a"]] == ["CRASHED", "COMPLETED", "RUNNING", "COMPLETED"]


def test_a_run_that_is_running_by_mistake_for_a_moment_does_not_crash(server: FakeServer, reports: Reports) -> None:
    server.add("a")
    seen = dict(server.runs["a"])
    server.say("a", "COMPLETED")
    assert not reports.end(seen, "Lost: its process ended.")
    assert server.runs["a"]["state_type"] == "COMPLETED"


def test_a_run_that_another_worker_has_meanwhile_ends_here(
    server: FakeServer, reports: Reports, record: Record
) -> None:
    server.add("a", labels={**MINE, "prefect.worker.name": "node-2"})
    _under_way(record, "a")
    assert [entry.id for entry in survey(record, reports, "node-1")] == ["a"]
    assert server.heartbeats == []


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_a_lost_run_crashes_with_those_that_it_called(
    server: FakeServer, reports: Reports, record: Record, state: str
) -> None:
    server.add("a", state)
    server.add("called", parent="a", deployment_id=None)
    _lost(record, "a")
    survey(record, reports, "node-1")
    sentence = "Lost: the worker on node-1, or its machine, ended while it had this run."
    assert (server.state("a"), server.state("called")) == (("CRASHED", sentence), ("CRASHED", sentence))
    assert record.lost() == []


def test_a_run_that_ended_by_itself_is_told_in_its_log_what_it_was_refused(
    server: FakeServer, reports: Reports
) -> None:
    server.add("a", "FAILED", "BlockingIOError")
    assert not reports.end(server.runs["a"], "Out of processes.", crashed_too=True)
    reports.log(server.runs["a"], "Out of processes.")
    assert server.state("a") == ("FAILED", "BlockingIOError")
    assert [(entry["flow_run_id"], entry["message"]) for entry in server.logs] == [("a", "Out of processes.")]


def test_a_lost_run_that_was_being_cancelled_is_cancelled(server: FakeServer, reports: Reports, record: Record) -> None:
    server.add("a", "CANCELLING")
    _lost(record, "a")
    survey(record, reports, "node-1")
    assert server.runs["a"]["state_type"] == "CANCELLED"


def test_a_cancelled_run_whose_hooks_are_called_is_left_alone(
    server: FakeServer, reports: Reports, record: Record
) -> None:
    server.add("a", "CANCELLING")
    _lost(record, "a")
    survey(record, reports, "node-1", {"a"})
    assert (server.runs["a"]["state_type"], [entry.id for entry in record.lost()]) == ("CANCELLING", ["a"])


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "COMPLETED"},
        {"state": "SCHEDULED"},
        {"labels": {**MINE, "prefect.worker.name": "node-2"}},
        {"labels": {**MINE, "prefect.work-pool.name": "gpu-pool"}},
    ],
)
def test_what_is_not_lost_is_left_alone(
    server: FakeServer, reports: Reports, record: Record, fields: dict[str, Any]
) -> None:
    server.add("a", **fields)
    _lost(record, "a")
    before = server.state("a")
    survey(record, reports, "node-1")
    assert server.state("a") == before
    assert record.lost() == []


def test_a_run_without_a_workers_name_is_not_judged_too_early(
    server: FakeServer, reports: Reports, record: Record
) -> None:
    server.add("a", "PENDING", labels={}, age=3)
    _lost(record, "a")
    survey(record, reports, "node-1")
    assert (server.runs["a"]["state_type"], [entry.id for entry in record.lost()]) == ("PENDING", ["a"])
    server.add("a", "PENDING", labels={}, age=120)
    survey(record, reports, "node-1")
    assert (server.runs["a"]["state_type"], record.lost()) == ("CRASHED", [])


def test_a_run_that_this_worker_has_again_is_not_reported(server: FakeServer, reports: Reports, record: Record) -> None:
    server.add("a")
    _lost(record, "a")
    _under_way(record, "a")
    survey(record, reports, "node-1")
    assert (server.heartbeats, server.runs["a"]["state_type"]) == (["a"], "RUNNING")
    assert (len(record.under_way()), record.lost()) == (1, [])


def test_what_could_not_be_reported_is_reported_later(server: FakeServer, reports: Reports, record: Record) -> None:
    server.add("a")
    _lost(record, "a")
    server.away = True
    with pytest.raises(PrefectUnreachableError):
        survey(record, reports, "node-1")
    assert [entry.id for entry in record.lost()] == ["a"]
    server.away = False
    survey(record, reports, "node-1")
    assert server.runs["a"]["state_type"] == "CRASHED"


def test_a_run_that_is_not_known_any_more_is_forgotten(reports: Reports, record: Record) -> None:
    _lost(record, "deleted")
    survey(record, reports, "node-1")
    assert record.lost() == []
