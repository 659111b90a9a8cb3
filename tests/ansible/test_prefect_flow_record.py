"""A deployment is recorded in two steps, so that the registry has what new runs may want at every moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import prefect_flow_forget
import prefect_flow_record
import prefect_flow_registry
import pytest

from ansible.module_utils.flow_registry import CURRENT, NEXT, Record, Registry

TARGET = "debian-12-x86_64"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/main.py").write_text("pass\n")
    (tmp_path / "demo.json").write_text(json.dumps({"name": "demo", "digest": "0" * 64}))
    return tmp_path


def record_of(site: Path, digest: str = "a" * 64, **asked: Any) -> Record:
    deployment = {"name": "daily", "work_pool": "cpu-pool", "entrypoint": "main.py:f", **asked}
    flow = {
        "name": "demo",
        "digest": digest,
        "files": ["main.py"],
        "directory": str(site / "demo"),
        "deployments": [deployment],
    }
    return prefect_flow_record.records(flow, {TARGET: str(site / "demo.json")}, {})["daily"]


RESULT = {
    "changed": True,
    "full_name": "my-flow/daily",
    "settings": {
        "flow_name": "my-flow",
        "parameters": {},
        "tags": ["a"],
        "schedules": [],
        "concurrency_limit": -1,
        "env": {},
        "description": None,
        "parameter_schema": {},
    },
}


def prepare(site: Path, record: Record, check: bool = False) -> bool:
    deployment = Registry(site / "flows").deployment("demo", "daily")
    return prefect_flow_record.prepare(
        deployment, record, site / "demo", {TARGET: str(site / "demo.json")}, check=check
    )


def finish(site: Path, record: Record, check: bool = False, **result: Any) -> bool:
    deployment = Registry(site / "flows").deployment("demo", "daily")
    return prefect_flow_record.finish(deployment, record, RESULT | result, check=check)


def links(site: Path) -> tuple[str | None, str | None]:
    deployment = Registry(site / "flows").deployment("demo", "daily")
    return deployment.linked(CURRENT), deployment.linked(NEXT)


def test_a_deployment_is_recorded_before_and_after_the_server_is_told(site: Path) -> None:
    first, second = record_of(site), record_of(site, "b" * 64)
    assert prepare(site, first)
    assert links(site) == (None, first["version"])
    assert finish(site, first)
    assert links(site) == (first["version"], None)
    assert prepare(site, second)
    assert links(site) == (first["version"], second["version"])
    assert finish(site, second)
    assert links(site) == (second["version"], None)


def test_the_same_again_changes_nothing(site: Path) -> None:
    record = record_of(site)
    prepare(site, record)
    finish(site, record)
    for check in (True, False):
        assert not prepare(site, record, check)
        assert not finish(site, record, check, changed=False)


def test_check_mode_writes_nothing(site: Path) -> None:
    assert prepare(site, record_of(site), check=True)
    assert not (site / "flows").exists()


def test_what_was_killed_in_between_is_finished_by_the_next(site: Path) -> None:
    record = record_of(site)
    prepare(site, record)
    assert not prepare(site, record)
    assert finish(site, record)
    assert links(site) == (record["version"], None)


def test_other_settings_of_the_same_version_are_recorded(site: Path) -> None:
    record = record_of(site)
    prepare(site, record)
    finish(site, record)
    assert finish(site, record_of(site, tags=["b"]))
    assert Registry(site / "flows").deployment("demo", "daily").versions()[0].record["asked"]["tags"] == ["b"]


def test_the_form_of_an_earlier_release_is_replaced(site: Path) -> None:
    directory = site / "flows/demo/daily"
    (directory / "code").mkdir(parents=True)
    (directory / "demo.json").write_text("{}")
    old = {"format_version": 1, "flow": "demo", "deployment": "daily", "digest": "c" * 64, "environments": {}}
    (directory / "record.json").write_text(json.dumps(old | {"files": [], "work_pool": "cpu-pool"}))
    record = record_of(site)
    prepare(site, record)
    known = prefect_flow_registry.run({"registry": site / "flows", "flow": None, "deployment": None, "version": None})
    assert [entry["version"] for entry in known["needed"]] == ["c" * 12, record["version"]]
    finish(site, record)
    assert sorted(path.name for path in directory.iterdir()) == ["current", "versions"]


def test_going_back_gives_what_the_version_had(site: Path) -> None:
    record = record_of(site)
    prepare(site, record)
    finish(site, record)
    back = prefect_flow_registry.run(
        {"registry": site / "flows", "flow": "demo", "deployment": None, "version": record["version"][:5]}
    )["chosen"]
    (deployment,) = back["flow"]["deployments"]
    assert (deployment["tags"], deployment["concurrency_limit"], back["described"]["name"]) == (["a"], -1, "my-flow")
    again = prefect_flow_record.records(
        back["flow"] | {"deployments": [back["asked"]]}, back["descriptions"], back["pack_digests"]
    )["daily"]
    assert again == record


def forget(site: Path, check: bool = False, **more: Any) -> dict[str, Any]:
    defaults = {"registry": site / "flows", "flow": "demo", "keep_versions": 3, "deployments": None, "keep_flow": False}
    return prefect_flow_forget.run(defaults | more, check=check)


def test_versions_beyond_the_kept_ones_are_removed(site: Path) -> None:
    records = [record_of(site, letter * 64) for letter in "abcde"]
    for day, record in enumerate(records):
        prepare(site, record)
        finish(site, record)
        kept = Registry(site / "flows").deployment("demo", "daily").directory / "versions" / record["version"]
        content = json.loads((kept / "record.json").read_text()) | {"deployed": f"2026-01-0{day + 1}"}
        (kept / "record.json").write_text(json.dumps(content))
    names = [record["version"] for record in records]
    assert sorted(forget(site, check=True)["keep"]["demo"]) == sorted(names[2:])
    result = forget(site)
    assert sorted(result["removed"]) == sorted(f"demo/daily/{name}" for name in names[:2])
    assert result["freed"] > 0
    assert not forget(site)["changed"]
    assert forget(site, keep_versions=1)["removed"] == sorted(f"demo/daily/{name}" for name in names[2:4])


def test_a_removed_deployment_leaves_others_versions(site: Path) -> None:
    daily = record_of(site)
    prepare(site, daily)
    finish(site, daily)
    weekly = Registry(site / "flows").deployment("demo", "weekly")
    prefect_flow_record.prepare(
        weekly, daily | {"deployment": "weekly"}, site / "demo", {TARGET: str(site / "demo.json")}, check=False
    )
    assert forget(site, deployments=["daily"])["keep"] == {"demo": [daily["version"]]}
    assert forget(site, deployments=["weekly"])["keep"] == {"demo": []}
    assert not (site / "flows/demo").exists()


def test_a_flow_stays_known_where_a_node_was_left_out(site: Path) -> None:
    record = record_of(site)
    prepare(site, record)
    finish(site, record)
    forget(site, deployments=["daily"], keep_flow=True)
    assert Registry(site / "flows").kept() == {"demo": []}
