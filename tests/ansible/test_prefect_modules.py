"""The modules that talk to the Prefect server compare, and send only what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import prefect_concurrency_limit
import prefect_deployment
import prefect_work_pool
import pytest
from fake_prefect import AUTH, FakePrefect, running_prefect

from ansible.module_utils.prefect_api import PrefectApi, PrefectApiError, PrefectUnreachableError

Run = Callable[..., dict[str, Any]]


class FakeModule:
    """What the modules' run() needs of AnsibleModule."""

    def __init__(self, params: dict[str, Any], check_mode: bool) -> None:
        self.params = params
        self.check_mode = check_mode


@pytest.fixture
def prefect() -> Iterator[FakePrefect]:
    with running_prefect() as server:
        yield server


def _run(module: ModuleType, server: FakePrefect, check: bool = False, **params: Any) -> dict[str, Any]:
    connection = {"api_url": server.url, "api_auth": AUTH, "api_timeout": 5.0}
    result: dict[str, Any] = module.run(FakeModule(connection | params, check))
    return result


def _pool(server: FakePrefect, check: bool = False, **params: Any) -> dict[str, Any]:
    defaults = {
        "name": "cpu-pool",
        "type": "process",
        "description": None,
        "concurrency_limit": None,
        "paused": None,
        "job_variables": None,
        "state": "present",
    }
    return _run(prefect_work_pool, server, check, **(defaults | params))


def _limits(server: FakePrefect, check: bool = False, **params: Any) -> dict[str, Any]:
    return _run(prefect_concurrency_limit, server, check, **({"limit": 1, "prune": None} | params))


CODE = "/opt/prefect/flows/demo2/0123456789ab"


def _deployment(server: FakePrefect, check: bool = False, **params: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "flow_name": "my-workflow",
        "name": "my_workflow",
        "work_pool": "cpu-pool",
        "entrypoint": "main.py:my_workflow",
        "path": CODE,
        "owner": "/opt/prefect/flows/demo2",
        "command": "/opt/prefect/envs/demo2-0/run python -m prefect.engine",
        "parameter_schema": {"type": "object", "properties": {}},
    }
    optional = (
        "env",
        "job_variables",
        "parameters",
        "schedules",
        "tags",
        "description",
        "version",
        "concurrency_limit",
    )
    return _run(prefect_deployment, server, check, **(dict.fromkeys(optional) | defaults | params))


# Work pools


def test_pool_is_created_once(prefect: FakePrefect) -> None:
    assert _pool(prefect)["changed"]
    assert not _pool(prefect)["changed"]
    assert [method for method, _, _ in prefect.writes] == ["POST"]


def test_pool_keeps_a_limit_that_was_set_elsewhere(prefect: FakePrefect) -> None:
    _pool(prefect)
    prefect.work_pools["cpu-pool"]["concurrency_limit"] = 7
    assert _pool(prefect, description="Flows")["diff"]["after"] == {"description": "Flows"}
    assert prefect.work_pools["cpu-pool"]["concurrency_limit"] == 7


def test_pool_limit_can_be_lifted(prefect: FakePrefect) -> None:
    _pool(prefect, concurrency_limit=3)
    assert _pool(prefect, concurrency_limit=-1)["changed"]
    assert prefect.work_pools["cpu-pool"]["concurrency_limit"] is None


def test_a_pool_is_paused_and_stays_so_until_it_is_told(prefect: FakePrefect) -> None:
    _pool(prefect)
    assert _pool(prefect, paused=True)["changed"]
    assert not _pool(prefect)["changed"]
    assert prefect.work_pools["cpu-pool"]["is_paused"]
    assert _pool(prefect, paused=False)["changed"]
    assert not prefect.work_pools["cpu-pool"]["is_paused"]


def test_pool_in_check_mode_changes_nothing(prefect: FakePrefect) -> None:
    result = _pool(prefect, check=True)
    assert result["changed"]
    assert result["diff"]["after"]["name"] == "cpu-pool"
    assert prefect.writes == []


def test_a_pool_has_the_job_variables_that_are_asked_for_and_keeps_what_it_had(prefect: FakePrefect) -> None:
    gpus = {"gpus": {"type": "integer", "default": 1}}
    _pool(prefect)
    assert _pool(prefect, job_variables=gpus)["changed"]
    assert not _pool(prefect, job_variables=gpus)["changed"]
    template = prefect.work_pools["cpu-pool"]["base_job_template"]
    assert template["job_configuration"]["gpus"] == "{{ gpus }}"
    assert template["job_configuration"]["working_dir"] == "{{ working_dir }}"
    template["variables"]["properties"]["gpus"]["default"] = 2
    template["variables"]["properties"]["own"] = {"type": "string"}
    assert not _pool(prefect, job_variables=gpus)["changed"]
    more = gpus | {"memory_max": {"type": "string"}}
    assert _pool(prefect, job_variables=more)["changed"]
    properties = prefect.work_pools["cpu-pool"]["base_job_template"]["variables"]["properties"]
    assert (properties["gpus"]["default"], {"own", "memory_max", "env"} <= set(properties)) == (2, True)


def test_pool_of_another_type_is_refused(prefect: FakePrefect) -> None:
    prefect.work_pools["cpu-pool"] = {"name": "cpu-pool", "type": "docker"}
    with pytest.raises(PrefectApiError, match="has type docker, not process"):
        _pool(prefect)
    assert prefect.writes == []


def test_pool_is_deleted_once(prefect: FakePrefect) -> None:
    _pool(prefect)
    assert _pool(prefect, state="absent")["changed"]
    assert not _pool(prefect, state="absent")["changed"]


# Concurrency limits


def test_limits_are_created_changed_and_pruned(prefect: FakePrefect) -> None:
    for name, slots in {"gpu-a-0": 2, "gpu-a-7": 1, "gpu-a-b-0": 1, "other": 1}.items():
        prefect.limits[name] = {"name": name, "limit": slots}
    result = _limits(prefect, names=["gpu-a-0", "gpu-a-1"], prune=r"gpu\-a\-[A-Za-z0-9]+")
    assert (result["created"], result["updated"], result["deleted"]) == (["gpu-a-1"], ["gpu-a-0"], ["gpu-a-7"])
    assert sorted(prefect.limits) == ["gpu-a-0", "gpu-a-1", "gpu-a-b-0", "other"]
    assert not _limits(prefect, names=["gpu-a-0", "gpu-a-1"])["changed"]


def test_limits_are_found_on_later_pages(prefect: FakePrefect) -> None:
    for number in range(450):
        prefect.limits[f"gpu-{number}-0"] = {"name": f"gpu-{number}-0", "limit": 1}
    assert not _limits(prefect, names=["gpu-449-0"])["changed"]


# Deployments


def test_deployment_needs_its_pool(prefect: FakePrefect) -> None:
    with pytest.raises(PrefectApiError, match="no work pool cpu-pool"):
        _deployment(prefect)
    assert prefect.writes == []


def test_deployment_is_created_once(prefect: FakePrefect) -> None:
    _pool(prefect)
    created = _deployment(prefect, tags=["b", "a"])
    assert (created["created"], created["full_name"]) == (True, "my-workflow/my_workflow")
    prefect.writes.clear()
    assert not _deployment(prefect, tags=["a", "b"])["changed"]
    assert prefect.writes == []


def test_deployment_in_check_mode_changes_nothing(prefect: FakePrefect) -> None:
    _pool(prefect)
    prefect.writes.clear()
    assert _deployment(prefect, check=True)["changed"]
    _deployment(prefect)
    prefect.writes.clear()
    result = _deployment(prefect, check=True, path=CODE[:-1] + "c")
    assert result["changes"] == ["job_variables", "path", "pull_steps"]
    assert prefect.writes == []


def test_deployment_keeps_what_is_not_given(prefect: FakePrefect) -> None:
    _pool(prefect)
    _deployment(prefect, schedules=[{"schedule": {"cron": "0 6 * * *"}}], parameters={"n": 1}, tags=["a"])
    prefect.writes.clear()
    _deployment(prefect, version="2")
    ((method, _, body),) = prefect.writes
    assert (method, body) == ("PATCH", {"version": "2"})


def test_deployment_keeps_its_job_variables_until_others_are_given(prefect: FakePrefect) -> None:
    _pool(prefect, job_variables={"gpus": {"type": "integer"}})
    _deployment(prefect, job_variables={"gpus": 2})
    assert not _deployment(prefect)["changed"]
    (deployment,) = prefect.deployments.values()
    assert deployment["job_variables"]["gpus"] == 2
    assert deployment["job_variables"]["working_dir"] == CODE
    assert _deployment(prefect, job_variables={})["changed"]
    assert "gpus" not in deployment["job_variables"]


def test_a_job_variable_that_the_pool_has_not_is_refused(prefect: FakePrefect) -> None:
    _pool(prefect)
    with pytest.raises(PrefectApiError, match="The work pool cpu-pool has no job variable gpus: it has none"):
        _deployment(prefect, job_variables={"gpus": 2})


@pytest.mark.parametrize(
    ("wish", "found"),
    [
        ({"cron": "0 6 * * *", "timezone": "UTC"}, {"cron": "0 6 * * *", "timezone": "UTC", "day_or": True}),
        ({"interval": 60.0}, {"interval": 60.0, "anchor_date": "2026-11-20T23:46:56Z", "timezone": "UTC"}),
        ({"rrule": "FREQ=DAILY"}, {"rrule": "DTSTART:20200101T000000\nFREQ=DAILY", "timezone": "UTC"}),
    ],
    ids=["cron", "interval", "rrule"],
)
def test_what_the_server_adds_to_a_schedule_is_no_change(
    prefect: FakePrefect, wish: dict[str, Any], found: dict[str, Any]
) -> None:
    _pool(prefect)
    _deployment(prefect, schedules=[])
    prefect.deployments["my-workflow/my_workflow"]["schedules"] = [{"id": "1", "schedule": found, "slug": None}]
    assert not _deployment(prefect, schedules=[{"schedule": wish}])["changed"]
    assert _deployment(prefect, schedules=[{"schedule": {"cron": "1 1 * * *"}}])["changes"] == ["schedules"]


def test_schedules_with_slugs_are_replaced(prefect: FakePrefect) -> None:
    _pool(prefect)
    _deployment(prefect, schedules=[])
    deployment = prefect.deployments["my-workflow/my_workflow"]
    deployment["schedules"] = [{"id": "1", "schedule": {"cron": "0 6 * * *"}, "slug": "daily"}]
    _deployment(prefect, schedules=[{"schedule": {"cron": "0 7 * * *"}}])
    assert [entry["schedule"] for entry in deployment["schedules"]] == [{"cron": "0 7 * * *"}]


def test_deployment_of_another_flow_directory_is_refused(prefect: FakePrefect) -> None:
    _pool(prefect)
    prefect.add_deployment("my-workflow", "my_workflow", path="/opt/prefect/flows/demo20/0123456789ab")
    prefect.writes.clear()
    with pytest.raises(PrefectApiError, match="belongs to another flow directory: give another deployment_name"):
        _deployment(prefect)
    assert prefect.writes == []


# The server


def test_wrong_login_names_the_setting(prefect: FakePrefect) -> None:
    with pytest.raises(PrefectApiError, match="prefect_basic_auth_key"):
        PrefectApi(prefect.url, "admin:wrong").get("/work_pools/cpu-pool")


def test_server_that_is_down_is_a_sentence() -> None:
    with pytest.raises(PrefectUnreachableError, match="does not answer"):
        PrefectApi("http://127.0.0.1:9/api", AUTH, 2).get("/work_pools/cpu-pool")


def test_check_mode_plans_for_a_server_that_is_not_there_yet() -> None:
    nowhere = FakePrefect()
    nowhere.url = "http://127.0.0.1:9/api"
    assert _pool(nowhere, check=True)["changed"]
    assert _limits(nowhere, check=True, names=["gpu-a-0"])["changed"]
    with pytest.raises(PrefectUnreachableError):
        _pool(nowhere)


def test_the_nodes_proxy_is_not_asked(prefect: FakePrefect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert PrefectApi(prefect.url, AUTH, 5).get("/work_pools/cpu-pool") is None


def test_a_server_that_cannot_be_verified_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PrefectApiError, match=r"cannot be verified: .*/none cannot be read"):
        PrefectApi("https://127.0.0.1:9/api", AUTH, 2, str(tmp_path / "none")).get("/work_pools/cpu-pool")
