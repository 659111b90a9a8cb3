"""Versions of a flow: deployed one after the other while a run is under way, gone back to, listed, removed.

A flow directory of the name of one of the bundle's has that one's environment. What is left is what was there before.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster_site import CPU_WORKERS, Secrets
from guide import CONTROLLER
from machines import Machines
from prefect_api import ApiError, PrefectApi
from test_flows import expect_in_log

REPOSITORY = Path(__file__).resolve().parent.parent.parent
ANSIBLE = "pag-software-bundle/ansible"
FLOWS = "flow-versions"
"""Where the flow directory is on the controller, in the operator's home."""
FLOW = "demo1"
NAME = "by_version"
DEPLOYMENT = f"versions/{NAME}"
DATA_BYTES = 20_000_000

GO_ON = "/run/pag-test-versions-go-on"
MAIN = f'''
import sys
import time
from pathlib import Path

from prefect import flow


@flow(name="versions", log_prints=True)
def my_workflow(wait: bool = False, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while wait and time.monotonic() < deadline and not Path("{GO_ON}").exists():
        time.sleep(0.1)
    from word import WORD

    print(f"The code is {{WORD}}, in {{Path(__file__).parent}}, environment {{sys.prefix}}.")
'''


@dataclass(frozen=True)
class Played:
    """How a playbook ended."""

    returncode: int
    output: str
    received: int
    """Bytes that all machines received meanwhile."""

    @property
    def changes(self) -> int:
        """The recap's sum over all nodes."""
        return sum(int(number) for number in re.findall(r"^\S+\s+: ok=\d+\s+changed=(\d+)", self.output, re.MULTILINE))


def play(machines: Machines, playbook: str, *arguments: str) -> Played:
    """Run a playbook on the controller, as the operator does."""
    extra = shlex.join(option for argument in arguments for option in _options(argument))
    before = machines.traffic()
    finished = subprocess.run(
        ["ssh", "-F", machines.ssh_config, CONTROLLER, f"cd {ANSIBLE} && ansible-playbook {playbook} {extra}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Played(finished.returncode, finished.stdout, machines.traffic() - before)


def _options(argument: str) -> list[str]:
    return [argument] if argument.startswith("--") else ["-e", argument]


def deploy(machines: Machines, word: str) -> Played:
    """Deploy the flow with another word in it."""
    machines.write(CONTROLLER, f"{FLOWS}/{FLOW}/word.py", f'WORD = "{word}"\n')
    directory = f"flow_dir=/home/operator/{FLOWS}/{FLOW}"
    return play(
        machines,
        "prefect-flow-deployment.yml",
        directory,
        "entrypoint=main.py:my_workflow",
        f"deployment_name={NAME}",
        '{"tags": ["word-' + word + '"]}',
    )


def current(machines: Machines) -> str:
    """Return the version that the controller has on record."""
    record = machines.ssh(CONTROLLER, f"cat /opt/pag/flows/{FLOW}/{NAME}/current/record.json")
    return str(json.loads(record)["version"])


def versions_on(machines: Machines, node: str, flow: str = FLOW) -> set[str]:
    """Return the versions of a flow that a node has as a whole."""
    places = machines.ssh(node, f"ls -d /opt/prefect/flows/{flow}/*/.complete 2>/dev/null || true").split()
    return {place.split("/")[-2] for place in places}


@pytest.fixture(scope="module")
def api(machines: Machines, secrets: Secrets) -> Iterator[PrefectApi]:
    """The server's API, for the whole module."""
    with machines.tunnel() as port:
        yield PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth)


@pytest.fixture(scope="module")
def before(machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, set[str]]]:
    """What each worker has of the flow before; the flow directory is on the controller."""
    flow = tmp_path_factory.mktemp("flows") / FLOW
    shutil.copytree(REPOSITORY / "flows" / FLOW, flow)
    (flow / "main.py").write_text(MAIN)
    (flow / "data.bin").write_bytes(bytes(range(256)) * (DATA_BYTES // 256))
    machines.ssh(CONTROLLER, f"rm -rf {FLOWS} && mkdir {FLOWS}")
    machines.copy([flow], CONTROLLER, FLOWS)
    yield {name: versions_on(machines, name) for name in CPU_WORKERS}
    machines.ssh(CONTROLLER, f"rm -rf {FLOWS}")
    for name in CPU_WORKERS:
        machines.ssh(name, f"sudo rm -f {GO_ON}")


@pytest.fixture(scope="module")
def old(before: dict[str, set[str]], machines: Machines) -> str:
    """The first version, deployed."""
    played = deploy(machines, "old")
    assert played.returncode == 0, played.output[-3000:]
    return current(machines)


@pytest.fixture(scope="module")
def under_way(old: str, api: PrefectApi) -> str:
    """A run of the first version, which waits."""
    return api.start(DEPLOYMENT, {"wait": True, "seconds": 600})


@pytest.fixture(scope="module")
def changed(under_way: str, machines: Machines, api: PrefectApi) -> Played:
    """How it went to deploy a second version, while that run was under way."""
    wait_until_running(api, under_way)
    return deploy(machines, "new")


@pytest.fixture(scope="module")
def back(old: str, changed: Played, machines: Machines, api: PrefectApi) -> Played:
    """How it went to go back to the first version; the flow directory is not there to be read."""
    assert expect_in_log(api, finished(api, api.start(DEPLOYMENT)), "The code is new")
    machines.ssh(CONTROLLER, f"mv {FLOWS} {FLOWS}.away")
    try:
        return play(
            machines, "prefect-flow-deployment.yml", f"flow={FLOW}", f"deployment_name={NAME}", f"version={old[:8]}"
        )
    finally:
        machines.ssh(CONTROLLER, f"mv {FLOWS}.away {FLOWS}")


def wait_until_running(api: PrefectApi, run: str) -> None:
    """Wait until a run is under way."""
    for _ in range(120):
        if api.request("GET", f"/flow_runs/{run}")["state_type"] == "RUNNING":
            return
        time.sleep(0.5)
    pytest.fail(f"the run {run} does not start")


def finished(api: PrefectApi, run: str) -> str:
    """Wait until a run is completed."""
    assert api.wait(run)["state_type"] == "COMPLETED"
    return run


def test_only_changed_files_travel(changed: Played, old: str, machines: Machines) -> None:
    assert changed.returncode == 0, changed.output[-3000:]
    # Ansible's own modules are all that is left of it: each worker would have received the data.
    assert changed.received < DATA_BYTES, changed.received
    for name in CPU_WORKERS:
        place = f"/opt/prefect/flows/{FLOW}"
        inodes = machines.ssh(name, f"stat -c %i {place}/{old}/data.bin {place}/{current(machines)}/data.bin").split()
        assert len(set(inodes)) == 1, "an unchanged file is there twice"


def test_a_deployment_names_one_version_throughout(changed: Played, machines: Machines, api: PrefectApi) -> None:
    """So that a run which starts while it is switched has code and environment of one version."""
    deployment = api.request("GET", f"/deployments/name/{DEPLOYMENT}")
    place = f"/opt/prefect/flows/{FLOW}/{current(machines)}"
    assert deployment["path"] == place
    assert deployment["job_variables"]["command"].startswith(f"{place}/.environment/run ")
    assert deployment["job_variables"]["working_dir"] == place
    assert deployment["job_variables"]["env"]["PREFECT__FLOW_ENTRYPOINT"] == f"{place}/main.py:my_workflow"


def test_going_back_restores_code_and_settings(back: Played, old: str, machines: Machines, api: PrefectApi) -> None:
    assert back.returncode == 0, back.output[-3000:]
    assert current(machines) == old
    assert expect_in_log(
        api, finished(api, api.start(DEPLOYMENT)), f"The code is old, in /opt/prefect/flows/{FLOW}/{old}"
    )
    assert api.request("GET", f"/deployments/name/{DEPLOYMENT}")["tags"] == ["word-old"]


def test_going_back_transfers_nothing(back: Played, changed: Played) -> None:
    assert "Transfer the files" not in back.output
    assert back.received < min(changed.received, DATA_BYTES)


@pytest.mark.usefixtures("back")
def test_an_unknown_version_is_refused_with_those_that_exist(old: str, machines: Machines) -> None:
    played = play(
        machines, "prefect-flow-deployment.yml", f"flow={FLOW}", f"deployment_name={NAME}", "version=ffffffffffff"
    )
    assert played.returncode != 0
    words = " ".join(played.output.split())
    assert f"{FLOW}/{NAME} has no version ffffffffffff: there are " in words
    assert old in words


@pytest.mark.usefixtures("back")
def test_the_list_has_versions_pools_and_nodes(old: str, machines: Machines) -> None:
    played = play(machines, "flow-list.yml")
    assert (played.returncode, played.changes) == (0, 0), played.output[-3000:]
    words = " ".join(played.output.split())
    assert f"{DEPLOYMENT}: flow {FLOW}, work pool cpu-pool" in words
    assert f"* {old}" in words
    assert f"on {', '.join(CPU_WORKERS)}" in words


@pytest.mark.usefixtures("back")
def test_removal_is_refused_while_a_run_is_active(under_way: str, machines: Machines, api: PrefectApi) -> None:
    name = api.request("GET", f"/flow_runs/{under_way}")["name"]
    played = play(machines, "prefect-flow-removal.yml", f"flow={FLOW}", f"deployment_name={NAME}")
    assert played.returncode != 0
    assert name in played.output, played.output[-3000:]
    assert played.changes == 0
    assert api.request("GET", f"/flow_runs/{under_way}")["state_type"] == "RUNNING"


@pytest.mark.usefixtures("back")
def test_the_run_under_way_ends_on_its_version(under_way: str, old: str, machines: Machines, api: PrefectApi) -> None:
    for name in CPU_WORKERS:
        machines.ssh(name, f"sudo touch {GO_ON}")
    assert expect_in_log(api, finished(api, under_way), f"The code is old, in /opt/prefect/flows/{FLOW}/{old}")


@pytest.mark.usefixtures("back")
def test_removal_leaves_what_was_there_before(
    before: dict[str, set[str]], under_way: str, machines: Machines, api: PrefectApi
) -> None:
    played = play(machines, "prefect-flow-removal.yml", f"flow={FLOW}", f"deployment_name={NAME}")
    assert played.returncode == 0, played.output[-3000:]
    assert {name: versions_on(machines, name) for name in CPU_WORKERS} == before
    with pytest.raises(ApiError, match="404"):
        api.request("GET", f"/deployments/name/{DEPLOYMENT}")
    assert api.request("GET", f"/flow_runs/{under_way}")["state_type"] == "COMPLETED", "the history stays"
    machines.ssh(CONTROLLER, f"test ! -e /opt/pag/flows/{FLOW}/{NAME}")
