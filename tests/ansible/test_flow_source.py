"""What a flow directory and the playbook's arguments ask for, and what is refused before anything happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible.module_utils.flow_source import (
    FlowSourceError,
    Request,
    check_entrypoint,
    packs_by_target,
    parse_schedule,
    read_flow,
)

CODE = "from prefect import flow\n\n@flow\ndef my_workflow(n: int = 1):\n    return n\n"


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    directory = tmp_path / "demo"
    directory.mkdir()
    (directory / "main.py").write_text(CODE)
    return directory


def _read(directory: Path, **arguments: Any) -> dict[str, Any]:
    return read_flow(Request(directory, **({"entrypoint": "main.py:my_workflow"} | arguments)))


def test_plain_flow(flow: Path) -> None:
    found = _read(flow)
    (deployment,) = found["deployments"]
    assert (found["name"], found["files"]) == ("demo", ["main.py"])
    assert (deployment["name"], deployment["work_pool"]) == ("my_workflow", "cpu-pool")
    assert (deployment["schedules"], deployment["parameters"], deployment["tags"]) == (None, None, None)


def test_digest_is_over_what_travels(flow: Path) -> None:
    before = _read(flow)["digest"]
    (flow / "packed-env.tar").write_bytes(b"packages")
    (flow / "__pycache__").mkdir()
    (flow / "__pycache__/main.cpython-311.pyc").write_bytes(b"")
    (flow / ".pixi").mkdir()
    (flow / ".pixi/file").write_bytes(b"")
    assert _read(flow)["digest"] == before
    (flow / "data.csv").write_text("1\n")
    assert _read(flow)["digest"] != before


def test_packs_for_targets_travel_by_themselves(flow: Path) -> None:
    before = _read(flow)["digest"]
    names = ("packed-env.debian-12-x86_64.tar", ".packed-env.tar.part", "other.ubuntu-24.04-aarch64.sh", "other.sh")
    for name in names:
        (flow / name).write_bytes(b"packages")
    assert _read(flow, packed_env="other.sh")["digest"] == before
    assert _read(flow)["files"] == ["main.py", "other.sh", "other.ubuntu-24.04-aarch64.sh"]


def test_a_target_has_its_own_pack(flow: Path) -> None:
    assert packs_by_target(flow / "packed-env.tar") == {}
    for name in ("packed-env.debian-12-x86_64.tar", "packed-env.tar", "packed-env.old.tar", "packed-env.debian-12.tar"):
        (flow / name).write_bytes(b"packages")
    (flow / "packed-env.debian-13-x86_64.tar").mkdir()
    assert packs_by_target(flow / "packed-env.tar") == {"debian-12-x86_64": flow / "packed-env.debian-12-x86_64.tar"}
    assert packs_by_target(flow / "missing/packed-env.tar") == {}


def test_arguments_as_text(flow: Path) -> None:
    (deployment,) = _read(
        flow,
        work_pool="gpu-pool",
        deployment_name="nightly",
        schedule="0 6 * * *",
        default_parameters='{"n": 3}',
        tags="a, b",
    )["deployments"]
    assert deployment["name"] == "nightly"
    assert deployment["work_pool"] == "gpu-pool"
    assert deployment["schedules"] == [{"schedule": {"cron": "0 6 * * *", "timezone": "UTC"}}]
    assert (deployment["parameters"], deployment["tags"]) == ({"n": 3}, ["a", "b"])


@pytest.mark.parametrize(
    ("value", "schedule"),
    [
        ("3600", {"interval": 3600.0, "timezone": "UTC"}),
        (90, {"interval": 90.0, "timezone": "UTC"}),
        ("FREQ=DAILY;BYHOUR=6", {"rrule": "FREQ=DAILY;BYHOUR=6", "timezone": "UTC"}),
        ('{"cron": "0 6 * * *", "timezone": "Europe/Rome"}', {"cron": "0 6 * * *", "timezone": "Europe/Rome"}),
    ],
)
def test_schedules(value: Any, schedule: dict[str, Any]) -> None:
    assert parse_schedule(value) == [{"schedule": schedule}]


@pytest.mark.parametrize("value", ["none", "", "off", [], None])
def test_no_schedule(value: Any) -> None:
    assert parse_schedule(value) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("-5", "no positive number of seconds"),
        ("0", "no positive number of seconds"),
        ({"cron": "* * * * *", "interval": 5}, "exactly one of cron, interval and rrule"),
        ({"cron": "* * * * *", "tz": "UTC"}, "does not know tz"),
        (True, "neither a cron expression"),
    ],
)
def test_schedules_that_are_none(value: Any, message: str) -> None:
    with pytest.raises(FlowSourceError, match=message):
        parse_schedule(value)


@pytest.mark.parametrize(
    ("entrypoint", "message"),
    [
        ("main.my_workflow", r"not of the form file\.py:function"),
        ("other.py:my_workflow", r"file other\.py does not exist"),
        ("main.py:other", "has no function other"),
        ("../main.py:my_workflow", "outside of the flow directory"),
        ("broken.py:my_workflow", r"broken\.py, line 1 is no valid Python"),
    ],
)
def test_entrypoints_that_are_refused(flow: Path, entrypoint: str, message: str) -> None:
    (flow / "broken.py").write_text("def my_workflow(:\n")
    (flow.parent / "main.py").write_text(CODE)
    with pytest.raises(FlowSourceError, match=message):
        check_entrypoint(flow.resolve(), entrypoint)


@pytest.mark.parametrize(
    "code",
    ["from lib import my_workflow", "my_workflow = flow(work)", "try:\n    def my_workflow(): ...\nfinally: ..."],
)
def test_entrypoints_that_are_bound_otherwise(flow: Path, code: str) -> None:
    (flow / "main.py").write_text(code)
    check_entrypoint(flow.resolve(), "main.py:my_workflow")


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(FlowSourceError, match=r"no flow directory .*nowhere on the controller"):
        _read(tmp_path / "nowhere")


def test_links_do_not_travel(flow: Path) -> None:
    (flow / "data").symlink_to("/etc")
    with pytest.raises(FlowSourceError, match="data, which is no ordinary file"):
        _read(flow)


PREFECT_YAML = """\
name: demo
prefect-version: 3.8.8
build: null
pull:
- prefect.deployments.steps.set_working_directory:
    directory: /home/me/demo
deployments:
- name: nightly
  entrypoint: main.py:my_workflow
  parameters: {n: 5}
  tags: [night]
  schedules:
  - cron: 0 2 * * *
    timezone: Europe/Rome
    active: false
  concurrency_limit: 1
  work_pool:
    name: gpu-pool
    work_queue_name: null
    job_variables: {env: {LEVEL: 1}}
- name: by-hand
  entrypoint: ./main.py:my_workflow
"""


def test_prefect_yaml_is_honoured(flow: Path) -> None:
    (flow / "prefect.yaml").write_text(PREFECT_YAML)
    nightly, by_hand = _read(flow, entrypoint=None)["deployments"]
    assert (nightly["name"], nightly["work_pool"], nightly["parameters"]) == ("nightly", "gpu-pool", {"n": 5})
    assert nightly["schedules"] == [{"schedule": {"cron": "0 2 * * *", "timezone": "Europe/Rome"}, "active": False}]
    assert (nightly["concurrency_limit"], nightly["env"], nightly["tags"]) == (1, {"LEVEL": "1"}, ["night"])
    assert (by_hand["work_pool"], by_hand["entrypoint"]) == ("cpu-pool", "main.py:my_workflow")


def test_arguments_go_before_prefect_yaml(flow: Path) -> None:
    (flow / "prefect.yaml").write_text(PREFECT_YAML)
    (deployment,) = _read(flow, deployment_name="nightly", work_pool="cpu-pool")["deployments"]
    assert (deployment["work_pool"], deployment["parameters"]) == ("cpu-pool", {"n": 5})


def test_job_variables_are_those_of_prefect_yaml_or_the_argument(flow: Path) -> None:
    (flow / "prefect.yaml").write_text(PREFECT_YAML.replace("{env: {LEVEL: 1}}", "{env: {LEVEL: 1}, gpus: 2}"))
    (deployment,) = _read(flow, deployment_name="nightly")["deployments"]
    assert (deployment["job_variables"], deployment["env"]) == ({"gpus": 2}, {"LEVEL": "1"})
    (deployment,) = _read(flow, deployment_name="nightly", job_variables='{"gpus": 1}')["deployments"]
    assert (deployment["job_variables"], deployment["env"]) == ({"gpus": 1}, {"LEVEL": "1"})
    (deployment,) = _read(flow, deployment_name="nightly", job_variables={})["deployments"]
    assert deployment["job_variables"] == {}
    with pytest.raises(FlowSourceError, match="job_variables must be a dictionary"):
        _read(flow, deployment_name="nightly", job_variables="2")
    with pytest.raises(FlowSourceError, match="has a gpus that is no whole number from 0 on: -1"):
        _read(flow, deployment_name="nightly", job_variables={"gpus": -1})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("build: null", "build: [{x.docker.build: {}}]", "has build steps in the file"),
        ("prefect.deployments.steps.set_working_directory:", "prefect.deployments.steps.git_clone:", "pull step"),
        ("tags: [night]", "tags: ['{{ branch }}']", "has a template"),
        ("concurrency_limit: 1", "flavour: 1", "has flavour in the deployment nightly"),
        ("{env: {LEVEL: 1}}", "{command: x}", r"job_variables\.command, which this playbook sets itself"),
        ("- name: by-hand", "- name: nightly", "two deployments of one name"),
        ("deployments:", "deployments: [", "is no valid YAML, line"),
    ],
)
def test_prefect_yaml_that_is_refused(flow: Path, old: str, new: str, message: str) -> None:
    (flow / "prefect.yaml").write_text(PREFECT_YAML.replace(old, new))
    with pytest.raises(FlowSourceError, match=message):
        _read(flow, entrypoint=None)


def test_without_entrypoint_and_prefect_yaml(flow: Path) -> None:
    with pytest.raises(FlowSourceError, match=r"entrypoint=FILE\.py:FUNCTION"):
        _read(flow, entrypoint=None)
