"""Directories of flows, many versions, and deployments and removals that are killed and repeated.

``PAG_LONG_FLOWS`` is the number of flows (10), ``PAG_LONG_VERSIONS`` of versions (10), ``PAG_LONG_KILLS`` of killed
playbooks of each kind (5).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest
from cluster_site import CPU_WORKERS, Secrets
from guide import CONTROLLER
from machines import Machines
from prefect_api import PrefectApi
from scenario_log import report
from test_flow_versions import ANSIBLE, REPOSITORY, Played, play, versions_on
from test_flows import expect_in_log

COUNT = int(os.environ.get("PAG_LONG_FLOWS", "10"))
VERSIONS = int(os.environ.get("PAG_LONG_VERSIONS", "10"))
KILLS = int(os.environ.get("PAG_LONG_KILLS", "5"))
HOME = "/home/operator"
DIRECTORY = "long-flows"
ENTRYPOINT = "entrypoint=main.py:my_workflow"
NAMES = [f"many{number}" for number in range(COUNT)]
MAIN = """
import time
from pathlib import Path

from prefect import flow


@flow(name="{name}", log_prints=True)
def my_workflow() -> None:
    from word import WORD

    print(f"The code is {{WORD}}, in {{Path(__file__).parent}}, at {{Path.cwd()}}.")
"""


@pytest.fixture(scope="module")
def api(machines: Machines, secrets: Secrets) -> Iterator[PrefectApi]:
    """The server's API, for the whole module."""
    with machines.tunnel() as port:
        yield PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth)


@pytest.fixture(scope="module")
def flows(machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The directory of flows on the controller; all of them have the same pack."""
    directory = tmp_path_factory.mktemp("flows")
    original = directory / "many"
    shutil.copytree(REPOSITORY / "flows/demo1", original)
    python = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin")
    assert python
    options = ["--python", "system", "--target", "debian-12", "--quiet"]
    command = [python, "build-bundle.py", "pack-flow", str(original), *options]
    subprocess.run(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, check=True)
    machines.ssh(CONTROLLER, f"rm -rf {DIRECTORY} && mkdir {DIRECTORY}")
    machines.copy([original], CONTROLLER, f"{DIRECTORY}.many")
    for name in NAMES:
        machines.ssh(CONTROLLER, f"cp -r {DIRECTORY}.many {DIRECTORY}/{name}")
        machines.write(CONTROLLER, f"{DIRECTORY}/{name}/main.py", MAIN.format(name=name))
        write(machines, name, "first")
    yield
    for name in NAMES:
        play(machines, "prefect-flow-removal.yml", f"flow={name}", "force=true")
    machines.ssh(CONTROLLER, f"rm -rf {DIRECTORY} {DIRECTORY}.many")


def write(machines: Machines, name: str, word: str) -> None:
    """Change a flow's code."""
    machines.write(CONTROLLER, f"{DIRECTORY}/{name}/word.py", f'WORD = "{word}"\n')


def deploy_all(machines: Machines) -> tuple[Played, float]:
    """Deploy the directory; return how it went, and the seconds."""
    started = time.monotonic()
    played = play(machines, "prefect-flow-deployment.yml", f"flows_dir={HOME}/{DIRECTORY}", ENTRYPOINT)
    return played, time.monotonic() - started


def deploy(machines: Machines, name: str, *arguments: str) -> Played:
    """Deploy one flow."""
    directory = f"flow_dir={HOME}/{DIRECTORY}/{name}"
    return play(machines, "prefect-flow-deployment.yml", directory, ENTRYPOINT, *arguments)


def kept(machines: Machines, name: str, deployment: str = "my_workflow") -> list[str]:
    """Return the versions that the controller keeps."""
    return machines.ssh(CONTROLLER, f"ls /opt/pag/flows/{name}/{deployment}/versions 2>/dev/null || true").split()


def runs_with(api: PrefectApi, name: str, word: str, deployment: str = "my_workflow") -> None:
    """Assert that a new run has that code."""
    run = api.start(f"{name}/{deployment}")
    assert api.wait(run)["state_type"] == "COMPLETED"
    expect_in_log(api, run, f"The code is {word},")


@pytest.fixture(scope="module")
def deployed(flows: None, machines: Machines) -> tuple[Played, float]:
    """All flows, deployed in one call."""
    return deploy_all(machines)


def test_a_directory_is_deployed_in_one_call(
    deployed: tuple[Played, float], machines: Machines, api: PrefectApi
) -> None:
    played, seconds = deployed
    assert played.returncode == 0, played.output[-3000:]
    for name in NAMES:
        runs_with(api, name, "first")
    again, short = deploy_all(machines)
    report(f"{COUNT} new flows: {seconds:.0f} s; as they were: {short:.1f} s, {again.received / 1e6:.1f} MB")
    assert (again.returncode, again.changes) == (0, 0), again.output[-3000:]
    assert "Deploy the flow that" not in again.output
    assert f"0 of {COUNT} flows changed" in again.output


@pytest.mark.usefixtures("deployed")
def test_only_the_changed_flow_is_touched_and_a_faulty_one_named(machines: Machines, api: PrefectApi) -> None:
    before = {name: kept(machines, name) for name in NAMES}
    write(machines, NAMES[1], "second")
    machines.write(CONTROLLER, f"{DIRECTORY}/{NAMES[0]}/main.py", "import package_that_nobody_has\n" + MAIN)
    played, _ = deploy_all(machines)
    machines.write(CONTROLLER, f"{DIRECTORY}/{NAMES[0]}/main.py", MAIN.format(name=NAMES[0]))
    assert played.returncode != 0
    last = " ".join(played.output[played.output.index("Name the flows that were not deployed") :].split())
    assert NAMES[0] in last
    assert "package_that_nobody_has" in last
    after = {name: kept(machines, name) for name in NAMES}
    assert [name for name in NAMES if after[name] != before[name]] == [NAMES[1]]
    runs_with(api, NAMES[0], "first")
    runs_with(api, NAMES[1], "second")


@pytest.mark.usefixtures("deployed")
def test_ten_versions_leave_three_and_another_deployments(machines: Machines, api: PrefectApi) -> None:
    name = NAMES[0]
    assert deploy(machines, name, "deployment_name=other").returncode == 0
    (other,) = kept(machines, name, "other")
    for number in range(VERSIONS):
        write(machines, name, f"number{number}")
        assert deploy(machines, name).returncode == 0
    versions = kept(machines, name)
    assert len(versions) == 3
    for worker in CPU_WORKERS:
        assert versions_on(machines, worker, name) == {*versions, other}
    runs_with(api, name, f"number{VERSIONS - 1}")
    runs_with(api, name, "first", "other")
    played = play(machines, "prefect-flow-removal.yml", f"flow={name}", "deployment_name=other")
    assert played.returncode == 0, played.output[-3000:]
    for worker in CPU_WORKERS:
        assert versions_on(machines, worker, name) == set(versions)
    runs_with(api, name, f"number{VERSIONS - 1}")


@pytest.mark.usefixtures("deployed")
def test_runs_that_start_during_a_switch_have_one_version(machines: Machines, api: PrefectApi) -> None:
    name = NAMES[1]
    write(machines, name, "third")
    assert deploy(machines, name).returncode == 0
    first, second = kept(machines, name)[-2:]
    runs = []
    for version in (first, second, first):
        command = f"cd {ANSIBLE} && ansible-playbook prefect-flow-deployment.yml -e flow={name} -e version={version}"
        with subprocess.Popen(
            ["ssh", "-F", machines.ssh_config, CONTROLLER, command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as switching:
            while switching.poll() is None:
                runs.append(api.start(f"{name}/my_workflow"))
                time.sleep(2)
        assert switching.returncode == 0
    for run in runs:
        assert api.wait(run)["state_type"] == "COMPLETED"
        log = expect_in_log(api, run, "The code is ")
        place, where = log.partition(", in ")[2].partition(".")[0].split(", at ")
        assert place == where, log


def killed(machines: Machines, seconds: float, playbook: str, *arguments: str) -> bool:
    """Run a playbook that is killed after that time; return whether it was."""
    extra = " ".join(f"-e {argument}" for argument in arguments)
    command = f"timeout --signal=KILL {seconds:.1f} ansible-playbook {playbook} {extra} > /dev/null 2>&1; echo $?"
    return machines.ssh(CONTROLLER, f"cd {ANSIBLE}; {command}").strip() == "137"


@pytest.mark.usefixtures("deployed")
def test_a_killed_deployment_and_removal_can_be_repeated(machines: Machines, api: PrefectApi) -> None:
    name = NAMES[-1]
    seed = time.time_ns() % 10**6
    chance = random.Random(seed)  # noqa: S311 (moments, no secrets)
    started = time.monotonic()
    assert deploy(machines, name).returncode == 0
    usual = time.monotonic() - started
    moments = []
    for number in range(KILLS):
        write(machines, name, f"killed{number}")
        moments.append(chance.uniform(1, usual))
        directory = f"flow_dir={HOME}/{DIRECTORY}/{name}"
        killed(machines, moments[-1], "prefect-flow-deployment.yml", directory, ENTRYPOINT)
        # Whatever was reached: what is deployed runs.
        assert api.wait(api.start(f"{name}/my_workflow"))["state_type"] == "COMPLETED"
        assert deploy(machines, name).returncode == 0
        assert deploy(machines, name).changes == 0
        runs_with(api, name, f"killed{number}")
    for _ in range(KILLS):
        moments.append(chance.uniform(1, 10))
        killed(machines, moments[-1], "prefect-flow-removal.yml", f"flow={name}")
        again = play(machines, "prefect-flow-removal.yml", f"flow={name}")
        assert again.returncode == 0 or f"No flow {name} is deployed" in " ".join(again.output.split())
        assert kept(machines, name) == []
        for worker in CPU_WORKERS:
            assert machines.ssh(worker, f"ls -dA /opt/prefect/flows/{name} /opt/prefect/envs/*{name}-* || true") == ""
        assert deploy(machines, name).returncode == 0
    report(f"seed {seed}, killed after {', '.join(f'{moment:.1f}' for moment in moments)} s")
    record = machines.ssh(CONTROLLER, f"cat /opt/pag/flows/{name}/my_workflow/current/record.json")
    assert json.loads(record)["full_name"] == f"{name}/my_workflow"
