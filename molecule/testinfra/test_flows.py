"""Deployed flows run, each in its own environment."""

from __future__ import annotations

import re
import time

import pytest
from prefect_api import PrefectApi, worker_of


def _names(api: PrefectApi) -> dict[str, dict[str, object]]:
    found = {}
    for deployment in api.deployments():
        flow = api.request("GET", f"/flows/{deployment['flow_id']}")["name"]
        found[f"{flow}/{deployment['name']}"] = deployment
    return found


def expect_in_log(api: PrefectApi, run: str, expected: str) -> str:
    """Return the run's log when *expected* is in it; what a run logs arrives in batches."""
    for _ in range(20):
        log = api.logs(run)
        if re.search(expected, log):
            return log
        time.sleep(0.5)
    pytest.fail(f"{expected!r} is not in the log of the run:\n{log}")


def test_deployments_are_there(api: PrefectApi) -> None:
    expected = {"demo1/my_workflow", "my-workflow/my_workflow", "demo3/my_workflow"}
    assert expected <= set(_names(api))


def test_every_deployment_runs(api: PrefectApi) -> None:
    runs = {name: api.start(name) for name in _names(api)}
    ended = {name: api.wait(run) for name, run in runs.items()}
    assert {name: run["state_type"] for name, run in ended.items()} == dict.fromkeys(runs, "COMPLETED")


def test_demo2_says_it_with_a_cow_from_its_own_environment(api: PrefectApi) -> None:
    run = api.start("my-workflow/my_workflow")
    assert api.wait(run)["state_type"] == "COMPLETED"
    assert re.search(r"/opt/prefect/envs/demo2-[0-9a-f]{12}/env/bin/python", expect_in_log(api, run, re.escape("^__^")))


def test_gpu_runs_go_to_gpu_workers(api: PrefectApi) -> None:
    deployment = _names(api)["demo3/my_workflow"]
    assert deployment["work_pool_name"] == "gpu-pool"
    run = api.start("demo3/my_workflow")
    ended = api.wait(run)
    assert ended["state_type"] == "COMPLETED"
    assert worker_of(ended) in {worker["name"] for worker in api.workers("gpu-pool")}


def test_parameters_have_their_schema(api: PrefectApi) -> None:
    assert _names(api)["my-workflow/my_workflow"]["parameter_openapi_schema"]
