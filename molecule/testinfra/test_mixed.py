"""Nodes of two releases in one cluster: each takes its own packages, and a flow runs on all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from cluster_site import CPU_WORKERS, SERVER
from guide import CONTROLLER, Guide
from machines import Machines
from placed_flow import PlacedFlow
from prefect_api import PrefectApi, worker_of
from scenario_log import report
from test_flows import expect_in_log
from test_server import assert_running
from testinfra.host import Host

On = Callable[[str], Host]

_PYTHONS = {SERVER: "3.11", "pag-worker-1": "3.11", "pag-worker-2": "3.13"}
_TARGETS = {SERVER: "debian-12-x86_64", "pag-worker-1": "debian-12-x86_64", "pag-worker-2": "debian-13-x86_64"}
_DEPLOY = "cd pag-software-bundle/ansible && ansible-playbook -i inventory.yml prefect-flow-deployment.yml"
FLOW = "my-workflow/my_workflow"

# What test_boxes looks for on one release, and each release's systemd does in its own way.
_KERNEL = """
import os

from prefect import flow


@flow(name="kernel")
def look() -> None:
    for path in ("/sys", "/sys/fs/cgroup", "/proc/sys"):
        assert os.statvfs(path).f_flag & os.ST_RDONLY, path
"""


@pytest.fixture(scope="module")
def deployed(machines: Machines) -> str:
    """What the playbook said that deployed a flow to all workers."""
    return machines.ssh(CONTROLLER, f"{_DEPLOY} -e flow_dir=../flows/demo2 -e entrypoint=main.py:my_workflow")


def test_the_machines_are_of_two_releases(on: On) -> None:
    assert {on(name).system_info.release.partition(".")[0] for name in CPU_WORKERS} == {"12", "13"}


def test_one_bundle_has_both_targets(on: On) -> None:
    manifest = json.loads(on(CONTROLLER).file("/opt/pag/manifest.json").content_string)
    assert {target["name"] for target in manifest["targets"]} == set(_TARGETS.values())
    paths = [file["path"] for file in manifest["files"]]
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize("name", _TARGETS)
def test_each_node_has_its_own_packages_only(on: On, name: str) -> None:
    assert on(name).check_output("ls /opt/pag/mirror/apt").split() == [_TARGETS[name]]
    own = f"cp{_PYTHONS[name].replace('.', '')}"
    # Of wheels for one version of Python; abi3 ones are for all later ones too.
    tags = re.findall(r"-(cp3\d+)-(?!abi3)", on(name).check_output("ls /opt/pag/mirror/pypi"))
    assert set(tags) == {own}


@pytest.mark.parametrize("name", _TARGETS)
def test_environments_have_the_nodes_own_python(on: On, name: str) -> None:
    said = on(name).check_output("/opt/prefect/pixi-env/env/bin/python --version")
    assert said.startswith(f"Python {_PYTHONS[name]}."), said


@pytest.mark.parametrize("name", CPU_WORKERS)
def test_workers_run(on: On, name: str) -> None:
    assert_running(on(name), "prefect-worker-cpu")


def test_the_server_sees_the_workers(api: PrefectApi) -> None:
    assert {worker["name"] for worker in api.workers("cpu-pool") if worker["status"] == "ONLINE"} == set(CPU_WORKERS)


def test_a_flow_is_deployed_to_all(deployed: str) -> None:
    assert f"installed on {', '.join(CPU_WORKERS)}" in deployed


@pytest.mark.usefixtures("deployed")
def test_deploying_it_again_changes_nothing(machines: Machines) -> None:
    again = machines.ssh(CONTROLLER, f"{_DEPLOY} -e flow_dir=../flows/demo2 -e entrypoint=main.py:my_workflow")
    assert re.findall(r"changed=(\d+)", again) == ["0"] * len(CPU_WORKERS), again


@contextmanager
def _alone(machines: Machines, name: str) -> Iterator[None]:
    """Have no other worker meanwhile."""
    others = [other for other in CPU_WORKERS if other != name]
    for other in others:
        machines.ssh(other, "sudo systemctl stop prefect-worker-cpu")
    try:
        yield
    finally:
        for other in others:
            machines.ssh(other, "sudo systemctl start prefect-worker-cpu")


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("name", CPU_WORKERS)
def test_it_runs_on_each_node_with_the_nodes_own_python(machines: Machines, on: On, api: PrefectApi, name: str) -> None:
    with _alone(machines, name):
        run = api.start(FLOW)
        ended = api.wait(run)
    assert (ended["state_type"], worker_of(ended)) == ("COMPLETED", name), api.logs(run)
    (environment,) = re.findall(r"/opt/prefect/envs/demo2-[0-9a-f]{12}/env\b(?!/)", expect_in_log(api, run, r"\^__\^"))
    assert on(name).check_output(f"{environment}/bin/python --version").startswith(f"Python {_PYTHONS[name]}.")


@pytest.mark.parametrize("name", CPU_WORKERS)
def test_a_run_changes_nothing_of_the_kernels_on_either_release(machines: Machines, api: PrefectApi, name: str) -> None:
    flow = PlacedFlow(machines, api, "kernel", _KERNEL, "main.py:look")
    with flow.deployed(), _alone(machines, name):
        ended = api.wait(flow.start_with({}))
    assert (ended["state_type"], worker_of(ended)) == ("COMPLETED", name), ended["state"]


def test_what_it_took(guide: Guide) -> None:
    for outcome in guide.outcomes():
        report(f"{outcome.block}: {outcome.seconds:.1f} s, {outcome.received / 1e6:.1f} MB received")
    assert all(outcome.returncode == 0 for outcome in guide.outcomes())
