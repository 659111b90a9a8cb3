"""The module for automations compares by name, and never leaves two."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import prefect_automation
import pytest

from ansible.module_utils.prefect_api import PrefectUnreachableError

NAME = "pag: end silent runs"
TRIGGER = {
    "type": "event",
    "match": {"prefect.resource.id": "prefect.flow-run.*"},
    "expect": ["prefect.flow-run.heartbeat", "prefect.flow-run.Failed"],
    "within": 180,
}
ACTIONS = [{"type": "change-flow-run-state", "state": "CRASHED", "message": "Lost"}]


class FakeServer:
    """The server's automations, newest first when asked so; it adds to a trigger what it adds in truth."""

    def __init__(self) -> None:
        self.automations: list[dict[str, Any]] = []
        self.writes: list[str] = []
        self.away = False
        self._numbers = itertools.count(1)

    def request(self, method: str, path: str, body: Any = None) -> Any:
        if self.away:
            raise PrefectUnreachableError("The Prefect server does not answer.")
        if path == "/automations/filter":
            assert body["sort"] == "CREATED_DESC"
            names = body["automations"]["name"]["any_"]
            return [entry for entry in reversed(self.automations) if entry["name"] in names]
        self.writes.append(method)
        if method == "POST":
            self.automations.append(self._stored(body, f"id-{next(self._numbers)}") | {"enabled": True})
            return self.automations[-1]
        identifier = path.rpartition("/")[2]
        index = next(index for index, entry in enumerate(self.automations) if entry["id"] == identifier)
        if method == "DELETE":
            del self.automations[index]
        else:
            self.automations[index] = self._stored(body, identifier)
        return None

    def _stored(self, body: dict[str, Any], identifier: str) -> dict[str, Any]:
        stored = copy.deepcopy(body) | {"id": identifier, "tags": []}
        trigger = stored["trigger"]
        trigger |= {"id": "a", "threshold": 1, "within": float(trigger["within"])}
        trigger["expect"] = sorted(trigger["expect"])
        return stored


class FakeModule:
    def __init__(self, params: dict[str, Any], check_mode: bool) -> None:
        self.params = params
        self.check_mode = check_mode


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    fake = FakeServer()
    monkeypatch.setattr(prefect_automation.PrefectApi, "from_parameters", lambda parameters: fake)
    return fake


def _run(check: bool = False, **params: Any) -> dict[str, Any]:
    defaults = {"name": NAME, "description": "", "trigger": TRIGGER, "actions": ACTIONS, "state": "present"}
    result: dict[str, Any] = prefect_automation.run(FakeModule(defaults | params, check))  # type: ignore[arg-type]
    return result


def test_it_is_created_once(server: FakeServer) -> None:
    assert _run()["changed"]
    assert _run() == {"changed": False, "id": "id-1", "diff": {}}
    assert server.writes == ["POST"]


def test_what_differs_is_replaced_in_its_place(server: FakeServer) -> None:
    _run()
    server.automations[0]["enabled"] = False
    assert _run(trigger={**TRIGGER, "within": 60})["changed"]
    assert server.writes == ["POST", "PUT"]
    (automation,) = server.automations
    # Who switched it off meant it.
    assert (automation["trigger"]["within"], automation["enabled"]) == (60.0, False)


@pytest.mark.parametrize(
    "change",
    [
        {"actions": [{**ACTIONS[0], "message": "Other"}]},
        {"actions": [*ACTIONS, *ACTIONS]},
        {"trigger": {**TRIGGER, "expect": ["prefect.flow-run.heartbeat"]}},
        {"trigger": {**TRIGGER, "match": {"prefect.resource.id": ["prefect.flow-run.*", "other"]}}},
        {"description": "Other"},
    ],
)
def test_every_difference_is_seen(server: FakeServer, change: dict[str, Any]) -> None:
    _run()
    assert _run(check=True, **change)["changed"]
    assert server.writes == ["POST"]


def test_of_several_the_oldest_is_kept(server: FakeServer) -> None:
    for _ in range(3):
        server.request(
            "POST", "/automations/", {"name": NAME, "description": "", "trigger": TRIGGER, "actions": ACTIONS}
        )
    assert _run()["changed"]
    assert [automation["id"] for automation in server.automations] == ["id-1"]


def test_it_can_be_taken_away(server: FakeServer) -> None:
    _run()
    assert _run(state="absent")["changed"]
    assert not _run(state="absent")["changed"]
    assert server.automations == []


def test_a_server_that_is_away_is_no_trouble_for_a_check(server: FakeServer) -> None:
    server.away = True
    assert _run(check=True)["changed"]
    with pytest.raises(PrefectUnreachableError):
        _run()
