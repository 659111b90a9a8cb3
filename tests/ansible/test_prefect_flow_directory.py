"""Of a directory of flows, those are found that are not deployed as they are there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prefect_flow_directory
import prefect_flow_record
import pytest
from fake_prefect import AUTH, FakePrefect, running_prefect

from ansible.module_utils import flow_environment
from ansible.module_utils.deployment_settings import options_of
from ansible.module_utils.flow_registry import Registry
from ansible.module_utils.flow_source import FlowSourceError

ENTRYPOINT = "main.py:my_workflow"
CODE = "def my_workflow(): ...\n"


@pytest.fixture
def prefect() -> Iterator[FakePrefect]:
    with running_prefect() as server:
        yield server


@pytest.fixture
def flows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of two flows, and of something else; the bundle has an environment for every flow."""
    (tmp_path / "bundle.json").write_text(json.dumps({"name": "any", "digest": "0" * 64}))
    descriptions = {"debian-12-x86_64": str(tmp_path / "bundle.json")}
    monkeypatch.setattr(flow_environment, "bundle_environments", lambda *_: descriptions)
    for name in ("one", "two"):
        (tmp_path / "flows" / name).mkdir(parents=True)
        (tmp_path / "flows" / name / "main.py").write_text(CODE)
    (tmp_path / "flows/notes").mkdir()
    return tmp_path / "flows"


def look(flows: Path, prefect: FakePrefect, **more: Any) -> dict[str, Any]:
    defaults = {
        "flows_dir": flows,
        "entrypoint": ENTRYPOINT,
        "work_pool": None,
        "work_pools": ["cpu-pool"],
        "packed_env": "packed-env.tar",
        "root": flows.parent,
        "registry": flows.parent / "registry",
        "api_url": prefect.url,
        "api_auth": AUTH,
        "api_timeout": 5.0,
    }
    return prefect_flow_directory.run(defaults | more)


def deploy(flows: Path, prefect: FakePrefect) -> None:
    """Do what the playbook does with every flow that changed."""
    for source in look(flows, prefect)["flows"]:
        flow, descriptions = source["flow"], source["descriptions"]
        for name, record in prefect_flow_record.records(flow, descriptions, source["pack_digests"]).items():
            path = f"/opt/prefect/flows/{flow['name']}/{record['version']}"
            served = prefect.add_deployment(flow["name"], name, path=path, entrypoint=ENTRYPOINT)
            result = {"full_name": f"{flow['name']}/{name}", "changed": True}
            result["settings"] = options_of(served, flow["name"])
            deployment = Registry(flows.parent / "registry").deployment(flow["name"], name)
            prefect_flow_record.prepare(deployment, record, Path(flow["directory"]), descriptions, check=False)
            prefect_flow_record.finish(deployment, record, result, check=False)


def changed(flows: Path, prefect: FakePrefect, **more: Any) -> list[str]:
    return [source["flow"]["name"] for source in look(flows, prefect, **more)["flows"]]


def test_new_flows_are_found_and_others_named(flows: Path, prefect: FakePrefect) -> None:
    result = look(flows, prefect)
    assert [source["flow"]["name"] for source in result["flows"]] == ["one", "two"]
    assert "notes" in result["report"][-1]


def test_deployed_flows_are_as_they_were(flows: Path, prefect: FakePrefect) -> None:
    deploy(flows, prefect)
    result = look(flows, prefect)
    assert (result["flows"], result["unchanged"]) == ([], ["one", "two"])
    assert prefect.writes == []


def test_changed_code_is_found(flows: Path, prefect: FakePrefect) -> None:
    deploy(flows, prefect)
    (flows / "two/main.py").write_text(CODE + "# changed\n")
    assert changed(flows, prefect) == ["two"]


def test_a_changed_environment_is_found(flows: Path, prefect: FakePrefect) -> None:
    deploy(flows, prefect)
    (flows.parent / "bundle.json").write_text(json.dumps({"name": "any", "digest": "1" * 64}))
    assert changed(flows, prefect) == ["one", "two"]
    (flows / "one/packed-env.tar").write_bytes(b"pack")
    deploy(flows, prefect)
    (flows / "one/packed-env.tar").write_bytes(b"other")
    assert changed(flows, prefect) == ["one"]


def test_a_deployment_that_somebody_changed_on_the_server_is_found(flows: Path, prefect: FakePrefect) -> None:
    deploy(flows, prefect)
    prefect.deployments["one/my_workflow"]["tags"] = ["edited"]
    del prefect.deployments["two/my_workflow"]
    assert changed(flows, prefect) == ["one", "two"]


def test_a_switch_that_was_interrupted_is_found(flows: Path, prefect: FakePrefect) -> None:
    deploy(flows, prefect)
    version = Registry(flows.parent / "registry").deployment("one", "my_workflow").versions()[0].version
    (flows.parent / "registry/one/my_workflow/next").symlink_to(f"versions/{version}")
    assert changed(flows, prefect) == ["one"]


def test_other_arguments_are_a_change(flows: Path, prefect: FakePrefect) -> None:
    deploy(flows, prefect)
    assert changed(flows, prefect, work_pool="gpu-pool", work_pools=["gpu-pool"]) == ["one", "two"]


def test_a_faulty_flow_does_not_hinder_the_others(flows: Path, prefect: FakePrefect) -> None:
    (flows / "one/main.py").write_text("def other(): ...\n")
    result = look(flows, prefect)
    assert [source["flow"]["name"] for source in result["flows"]] == ["two"]
    (fault,) = result["faults"]
    assert fault["name"] == "one"
    assert "no function my_workflow" in fault["msg"]


def test_a_pool_without_workers_is_the_flows_fault(flows: Path, prefect: FakePrefect) -> None:
    result = look(flows, prefect, work_pool="gpu-pool")
    assert "serves the work pool gpu-pool" in result["faults"][0]["msg"]


def test_a_directory_without_flows_is_refused(flows: Path, prefect: FakePrefect) -> None:
    with pytest.raises(FlowSourceError, match="No subdirectory"):
        look(flows / "notes", prefect)
    with pytest.raises(FlowSourceError, match="There is no directory"):
        look(flows / "nowhere", prefect)
