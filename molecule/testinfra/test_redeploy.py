"""Flows are deployed again while they run: with a pack, with a prefect.yaml, with changed and with broken code.

One flow directory is deployed as operators do it, on the controller; what happens to it here happens in the order of
the tests. The flows stay deployed: a worker that joins later gets them as well.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster_site import CPU_WORKERS, Secrets
from guide import CONTROLLER
from machines import Machines
from prefect_api import ApiError, PrefectApi
from test_flows import expect_in_log

REPOSITORY = Path(__file__).resolve().parent.parent.parent
ANSIBLE = "pag-software-bundle/ansible"
FLOWS = "redeploy"
"""Where the flow directories are on the controller, in the operator's home."""

FLOW = "changing"
DEPLOYMENT = "changing/by_the_year"
# A day that no test meets, so that no run starts by itself.
CRON = "30 4 29 2 *"
ARGUMENTS = (
    "deployment_name=by_the_year",
    f"schedule='{CRON}'",
    '{"default_parameters": {"text": "moo, says the schedule"}}',
    '{"tags": ["farm", "yearly"]}',
)
# What the server itself changes.
VOLATILE = {"updated", "status", "last_polled"}

GO_ON = "/run/pag-test-go-on"
MAIN = f'''
"""Say a word that is in another file, which is read when the run may go on."""

import sys
import time
from pathlib import Path

from cowpy import cow
from prefect import flow


@flow(name="{FLOW}", log_prints=True)
def my_workflow(text: str = "nothing", wait: bool = False) -> None:
    for _ in range(6000 if wait else 0):
        if Path("{GO_ON}").exists():
            break
        time.sleep(0.1)
    from word import WORD

    print(cow.Cowacter().milk(text))
    print(f"The code is {{WORD}}, in {{Path(__file__).parent}}, environment {{sys.prefix}}.")
'''

DESCRIBED = "demo1"
"""The other flow directory is called like one of the bundle's, and so uses that one's environment."""
DESCRIBED_MAIN = """
from prefect import flow


@flow(name="described", log_prints=True)
def add(first: int = 0, second: int = 0) -> None:
    print(f"The sum is {first + second}.")


@flow(name="described-too", log_prints=True)
def greet(name: str = "nobody") -> None:
    print(f"Hello, {name}.")
"""
PREFECT_YAML = f"""
deployments:
  - name: scheduled
    entrypoint: main.py:add
    description: Adds in leap years.
    tags: [sums]
    parameters: {{first: 40, second: 2}}
    schedules:
      - cron: "{CRON}"
        timezone: Europe/Berlin
    work_pool: {{name: cpu-pool}}
  - name: by_hand
    entrypoint: main.py:greet
    work_pool: {{name: gpu-pool}}
"""


@dataclass(frozen=True)
class Played:
    """How a playbook ended."""

    returncode: int
    output: str

    @property
    def changes(self) -> int:
        """The recap's sum over all nodes."""
        return sum(int(number) for number in re.findall(r"^\S+\s+: ok=\d+\s+changed=(\d+)", self.output, re.MULTILINE))


@dataclass(frozen=True)
class Controller:
    """The controller, as the operator uses it who deploys flows."""

    machines: Machines

    def deploy(self, flow: str, *arguments: str, check: bool = False) -> Played:
        """Deploy the flow directory *flow* with the extra variables *arguments*."""
        return self._play(f"flow_dir=~/{FLOWS}/{flow}", *arguments, check=check)

    def deploy_all(self, *arguments: str) -> Played:
        """Deploy all flow directories in one call."""
        return self._play(f"flows_dir=~/{FLOWS}", *arguments)

    def _play(self, *arguments: str, check: bool = False) -> Played:
        options = [part for argument in arguments for part in ("-e", argument)] + (["--check"] if check else [])
        command = f"ansible-playbook -i inventory.yml prefect-flow-deployment.yml {shlex.join(options)}"
        finished = subprocess.run(
            ["ssh", "-F", self.machines.ssh_config, CONTROLLER, f"cd {ANSIBLE} && {command}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Played(finished.returncode, finished.stdout)

    def deploy_changing(self, *arguments: str, check: bool = False) -> Played:
        """Deploy the flow that is deployed again and again."""
        return self.deploy(FLOW, "entrypoint=main.py:my_workflow", *arguments, check=check)

    def write(self, path: str, content: str) -> None:
        """Write a file of a flow directory."""
        self.machines.write(CONTROLLER, f"{FLOWS}/{path}", content)


def _deployment(api: PrefectApi, name: str = DEPLOYMENT) -> dict[str, Any]:
    found: dict[str, Any] = api.request("GET", f"/deployments/name/{name}")
    return {key: value for key, value in found.items() if key not in VOLATILE}


def _code(machines: Machines) -> dict[str, list[str]]:
    return {name: machines.ssh(name, f"sudo ls -A /opt/prefect/flows/{FLOW}").split() for name in CPU_WORKERS}


def _run(api: PrefectApi, expected: str) -> str:
    run = api.start(DEPLOYMENT)
    assert api.wait(run)["state_type"] == "COMPLETED"
    return expect_in_log(api, run, expected)


@pytest.fixture(scope="module")
def api(machines: Machines, secrets: Secrets) -> Iterator[PrefectApi]:
    """The server's API, for the whole module."""
    with machines.tunnel() as port:
        yield PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth)


@pytest.fixture(scope="module")
def controller(machines: Machines, api: PrefectApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    """The controller, with the flow directories; nothing of an earlier run of this module is deployed."""
    for name in (DEPLOYMENT, "described/scheduled", "described-too/by_hand"):
        with contextlib.suppress(ApiError):
            api.request("DELETE", f"/deployments/{_deployment(api, name)['id']}")
    flows = tmp_path_factory.mktemp("flows")
    for original, name, main in (("demo2", FLOW, MAIN), ("demo1", DESCRIBED, DESCRIBED_MAIN)):
        shutil.copytree(REPOSITORY / "flows" / original, flows / name)
        (flows / name / "main.py").write_text(main)
    (flows / FLOW / "word.py").write_text('WORD = "old"\n')
    (flows / DESCRIBED / "prefect.yaml").write_text(PREFECT_YAML)
    _pack(flows / FLOW)
    _forget(machines)
    for name in CPU_WORKERS:
        machines.ssh(name, f"sudo rm -rf /opt/prefect/flows/{FLOW}")
    machines.ssh(CONTROLLER, f"mkdir {FLOWS}")
    machines.copy([flows / FLOW, flows / DESCRIBED], CONTROLLER, FLOWS)
    yield Controller(machines)
    _forget(machines)


def _pack(flow: Path) -> None:
    """Write the flow's packed environment, as its author does on the connected machine."""
    # The operator's python3 is the system's.
    python = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin")
    assert python
    options = ["--python", "system", "--target", "debian-12", "--quiet"]
    command = [python, "build-bundle.py", "pack-flow", str(flow), *options]
    subprocess.run(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, check=True)


def _forget(machines: Machines) -> None:
    machines.ssh(CONTROLLER, f"rm -rf {FLOWS}")
    for name in CPU_WORKERS:
        machines.ssh(name, f"sudo rm -f {GO_ON}")


@pytest.fixture(scope="module")
def first(controller: Controller) -> Played:
    """How the first deployment went."""
    return controller.deploy_changing(*ARGUMENTS)


@pytest.fixture(scope="module")
def under_way(first: Played, api: PrefectApi) -> str:
    """A run that was started with the first code, and waits."""
    assert first.returncode == 0, first.output[-3000:]
    return api.start(DEPLOYMENT, {"wait": True})


def _assert_described(deployment: dict[str, Any]) -> None:
    assert [schedule["schedule"]["cron"] for schedule in deployment["schedules"]] == [CRON]
    assert all(schedule["active"] for schedule in deployment["schedules"])
    assert deployment["parameters"] == {"text": "moo, says the schedule"}
    assert sorted(deployment["tags"]) == ["farm", "yearly"]
    assert set(deployment["parameter_openapi_schema"]["properties"]) == {"text", "wait"}
    assert deployment["work_pool_name"] == "cpu-pool"


def test_a_deployment_is_what_its_arguments_say(first: Played, api: PrefectApi) -> None:
    assert first.returncode == 0, first.output[-3000:]
    assert DEPLOYMENT in first.output
    _assert_described(_deployment(api))


def test_its_pack_is_read_once_for_all_nodes(first: Played) -> None:
    (lines,) = re.findall(r"^TASK \[prefect_flow : Read the pack\] \*+\n((?:\w+: .*\n)+)", first.output, re.MULTILINE)
    assert len(lines.splitlines()) == 1, lines


@pytest.mark.usefixtures("under_way")
def test_a_flow_runs_in_its_packs_environment(machines: Machines, api: PrefectApi) -> None:
    log = _run(api, "The code is old")
    assert "moo, says the schedule" in log
    (environment,) = re.findall(rf"environment (/opt/prefect/envs/{FLOW}-[0-9a-f]{{12}})/env\.", log)
    for name in CPU_WORKERS:
        machines.ssh(name, f"test -e {environment}/.complete")


@pytest.mark.usefixtures("under_way")
def test_the_same_again_changes_nothing(controller: Controller, api: PrefectApi) -> None:
    before = _deployment(api)
    again = controller.deploy_changing(*ARGUMENTS)
    assert (again.returncode, again.changes) == (0, 0), again.output[-3000:]
    assert _deployment(api) == before


@pytest.mark.usefixtures("under_way")
def test_an_argument_that_is_cut_at_a_space_is_refused(controller: Controller, api: PrefectApi) -> None:
    """Ansible takes ``-e schedule="30 4 29 2 *"`` for 30 and the rest for nothing, which would be every 30 seconds."""
    before = _deployment(api)
    refused = controller.deploy_changing("deployment_name=by_the_year", f"schedule={CRON}")
    assert refused.returncode != 0, refused.output[-3000:]
    assert "cut at a space" in refused.output
    assert _deployment(api) == before


@pytest.mark.usefixtures("under_way")
def test_code_that_does_not_import_leaves_the_old_deployment_working(
    controller: Controller, machines: Machines, api: PrefectApi
) -> None:
    before, code = _deployment(api), _code(machines)
    controller.write(f"{FLOW}/main.py", "import package_that_nobody_has\n" + MAIN)
    failed = controller.deploy_changing("deployment_name=by_the_year")
    controller.write(f"{FLOW}/main.py", MAIN)
    assert failed.returncode != 0
    assert "package_that_nobody_has" in failed.output, failed.output[-3000:]
    assert (_deployment(api), _code(machines)) == (before, code)
    _run(api, "The code is old")


@pytest.mark.usefixtures("under_way")
def test_check_of_changed_code_changes_nothing(controller: Controller, machines: Machines, api: PrefectApi) -> None:
    before, code = _deployment(api), _code(machines)
    controller.write(f"{FLOW}/word.py", 'WORD = "new"\n')
    checked = controller.deploy_changing("deployment_name=by_the_year", check=True)
    assert checked.returncode == 0, checked.output[-3000:]
    assert checked.changes > 0
    assert (_deployment(api), _code(machines)) == (before, code)


@pytest.fixture(scope="module")
def changed(under_way: str, controller: Controller, api: PrefectApi) -> tuple[Played, str, str]:
    """How deploying changed code went, while a run was under way; and where the code was before, and is now."""
    assert api.request("GET", f"/flow_runs/{under_way}")["state_type"] == "RUNNING"
    before = str(_deployment(api)["path"])
    controller.write(f"{FLOW}/word.py", 'WORD = "new"\n')
    played = controller.deploy_changing("deployment_name=by_the_year")
    return played, before, str(_deployment(api)["path"])


def test_changed_code_is_beside_the_old(changed: tuple[Played, str, str], machines: Machines) -> None:
    played, before, after = changed
    assert played.returncode == 0, played.output[-3000:]
    assert before != after
    for name in CPU_WORKERS:
        # Each holds what its name says.
        for path, word in ((before, "old"), (after, "new")):
            assert machines.ssh(name, f"cat {path}/word.py") == f'WORD = "{word}"\n'


@pytest.mark.usefixtures("changed")
def test_what_is_not_given_again_stays(api: PrefectApi) -> None:
    _assert_described(_deployment(api))


def test_a_later_run_has_the_new_code(changed: tuple[Played, str, str], api: PrefectApi) -> None:
    assert f"in {changed[2]}, environment" in _run(api, "The code is new")


def test_the_run_under_way_ends_with_the_old_code(
    under_way: str, changed: tuple[Played, str, str], machines: Machines, api: PrefectApi
) -> None:
    assert api.request("GET", f"/flow_runs/{under_way}")["state_type"] == "RUNNING"
    for name in CPU_WORKERS:
        machines.ssh(name, f"sudo touch {GO_ON}")
    assert api.wait(under_way, timeout=30)["state_type"] == "COMPLETED"
    assert f"in {changed[1]}, environment" in expect_in_log(api, under_way, "The code is old")


@pytest.fixture(scope="module")
def together(changed: tuple[Played, str, str], controller: Controller, machines: Machines) -> Played:
    """How deploying both directories in one call went, where the first one's pack was cut off on its way."""
    pack = f"{FLOWS}/{FLOW}/packed-env.tar"
    machines.ssh(CONTROLLER, f"cp {pack} whole.tar && truncate -s 50000 {pack}")
    played = controller.deploy_all("entrypoint=main.py:my_workflow")
    machines.ssh(CONTROLLER, f"mv whole.tar {pack}")
    return played


def test_a_pack_that_was_cut_off_is_named_once_and_nothing_comes_of_it(
    together: Played, changed: tuple[Played, str, str], machines: Machines, api: PrefectApi
) -> None:
    assert together.returncode != 0
    last = together.output.partition("Name the flows that were not deployed")[2]
    message = " ".join(last.partition("msg: ")[2].split())
    assert message.count(f"{FLOW}: ") == 1, last
    assert "is cut short: " in message, last
    assert _deployment(api)["path"] == changed[2]
    for name in CPU_WORKERS:
        machines.ssh(name, f"test -e {changed[2]}/.complete")
    with pytest.raises(ApiError):
        _deployment(api, f"{FLOW}/my_workflow")


def test_the_other_flow_is_deployed_as_its_prefect_yaml_says(
    together: Played, machines: Machines, api: PrefectApi
) -> None:
    assert "2 of 2 flows changed" in together.output
    scheduled = _deployment(api, "described/scheduled")
    assert [schedule["schedule"] for schedule in scheduled["schedules"]] == [
        {"cron": CRON, "timezone": "Europe/Berlin", "day_or": True}
    ]
    assert (scheduled["parameters"], scheduled["tags"]) == ({"first": 40, "second": 2}, ["sums"])
    assert (scheduled["description"], scheduled["work_pool_name"]) == ("Adds in leap years.", "cpu-pool")
    for name in CPU_WORKERS:
        machines.ssh(name, f"test -e {scheduled['path']}/.complete")
    by_hand = _deployment(api, "described-too/by_hand")
    assert (by_hand["schedules"], by_hand["parameters"], by_hand["work_pool_name"]) == ([], {}, "gpu-pool")
    runs = {"The sum is 42": "described/scheduled", "Hello, nobody": "described-too/by_hand"}
    for expected, run in {expected: api.start(name) for expected, name in runs.items()}.items():
        assert api.wait(run)["state_type"] == "COMPLETED"
        expect_in_log(api, run, expected)
