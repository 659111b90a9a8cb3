"""Deployments are removed when no run is active, or when the operator has them cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import prefect_deployment_removal
import pytest
from fake_prefect import AUTH, FakePrefect, running_prefect
from test_prefect_modules import FakeModule

from ansible.module_utils.prefect_api import PrefectApiError

OWNER = "/opt/prefect/flows/demo"
NAME = "my-flow/daily"


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePrefect]:
    monkeypatch.setattr(prefect_deployment_removal, "_POLL_SECONDS", 0.01)
    with running_prefect() as server:
        server.add_deployment("my-flow", "daily", path=f"{OWNER}/0123456789ab")
        yield server


def remove(server: FakePrefect, check: bool = False, **params: Any) -> dict[str, Any]:
    defaults = {"names": [NAME], "owner": OWNER, "force": False, "wait": 5}
    connection = {"api_url": server.url, "api_auth": AUTH, "api_timeout": 5.0}
    result: dict[str, Any] = prefect_deployment_removal.run(FakeModule(connection | defaults | params, check))  # type: ignore[arg-type]
    return result


def add_run(server: FakePrefect, state: str = "RUNNING", name: str = "brave-cow") -> None:
    identifier = server.deployments[NAME]["id"]
    run = {"id": name, "name": name, "deployment_id": identifier, "state_type": state, "state_name": state.capitalize()}
    server.runs.append(run)


def test_a_deployment_is_removed_once(prefect: FakePrefect) -> None:
    assert remove(prefect)["removed"] == [NAME]
    assert prefect.deployments == {}
    assert not remove(prefect)["changed"]


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "PAUSED", "CANCELLING"])
@pytest.mark.parametrize("check", [True, False])
def test_an_active_run_is_named_and_nothing_is_changed(prefect: FakePrefect, state: str, check: bool) -> None:
    add_run(prefect, state)
    with pytest.raises(PrefectApiError, match=rf"brave-cow \({state.capitalize()}\).*Nothing was removed"):
        remove(prefect, check)
    assert prefect.writes == []


@pytest.mark.parametrize("state", ["SCHEDULED", "COMPLETED"])
def test_other_runs_are_no_hindrance(prefect: FakePrefect, state: str) -> None:
    add_run(prefect, state)
    assert remove(prefect)["changed"]


def test_forced_runs_are_cancelled_before(prefect: FakePrefect) -> None:
    add_run(prefect)
    result = remove(prefect, force=True)
    assert (result["removed"], result["cancelled"]) == ([NAME], ["brave-cow"])
    assert [method for method, _, _ in prefect.writes] == ["PATCH", "POST", "DELETE"]
    assert prefect.runs[0]["state_type"] == "CANCELLED"


def test_runs_that_do_not_end_are_named_and_the_deployment_stays(prefect: FakePrefect) -> None:
    add_run(prefect)
    with pytest.raises(PrefectApiError, match=r"brave-cow .* have not ended within 0 s"):
        remove(prefect, force=True, wait=0)
    assert NAME in prefect.deployments


def test_check_mode_removes_nothing(prefect: FakePrefect) -> None:
    assert remove(prefect, check=True)["removed"] == [NAME]
    assert prefect.writes == []


def test_a_deployment_of_another_flow_directory_is_not_touched(prefect: FakePrefect) -> None:
    prefect.deployments[NAME]["path"] = "/opt/prefect/flows/demo2/0123456789ab"
    assert not remove(prefect)["changed"]
    assert NAME in prefect.deployments
