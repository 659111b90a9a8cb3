"""A cluster goes from an older Prefect to this checkout's, while runs go on."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import carry
import pytest
from cluster_site import CPU_WORKERS, GPU_WORKERS, SERVER, Secrets
from guide import CONTROLLER, Guide
from machines import Machines
from prefect_api import PrefectApi
from scenario_log import report
from steady_runs import SteadyRuns, played, start_times

REPOSITORY = Path(__file__).resolve().parent.parent.parent
_UNITS = {
    CONTROLLER: ["ssh.service", "pag-ui.socket"],
    SERVER: ["ssh.service", "postgresql.service", "nginx.service", "prefect-server.service"],
    **{name: ["ssh.service", "prefect-worker-cpu.service"] for name in CPU_WORKERS},
    GPU_WORKERS[0]: ["ssh.service", "prefect-worker-cpu.service", "prefect-worker-gpu.service"],
}
_PREFECT = {(machine, unit) for machine, units in _UNITS.items() for unit in units if unit.startswith("prefect-")}
# Changes nobody notices: more for the server's journal; less in those of the runs of one worker.
_SERVER_SETTING = "PREFECT_LOGGING_SERVER_LEVEL: INFO"
_WORKER_SETTING = "PREFECT_LOGGING_LEVEL: INFO"


@pytest.fixture(scope="module")
def api(machines: Machines, secrets: Secrets) -> Iterator[PrefectApi]:
    """The server's API, for the whole module."""
    with machines.tunnel() as port:
        yield PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth)


@dataclass(frozen=True)
class Upgrade:
    """How the upgrade went, and what was there before it."""

    returncode: int
    output: str
    seconds: float
    before: dict[tuple[str, str], str]
    """When the services were started."""
    after: dict[tuple[str, str], str]
    older: str
    """The server's version before."""


@pytest.fixture(scope="module")
def runs(machines: Machines, api: PrefectApi) -> SteadyRuns:
    """Runs of a flow that is deployed with the older bundle's environment."""
    steady = SteadyRuns(machines, api)
    steady.deploy()
    return steady


@pytest.fixture(scope="module")
def installed(machines: Machines, runs: SteadyRuns, guide: Guide, tmp_path_factory: pytest.TempPathFactory) -> None:
    """This checkout's bundle is installed on the controller, as the README says; the cluster is as it was."""
    assert runs.machines is machines
    bundle = tmp_path_factory.mktemp("newer") / carry.BUNDLE_NAME
    assert carry.build(REPOSITORY, bundle, ["--python", "system"]) == 0
    machines.copy([bundle], CONTROLLER, "")
    outcome = guide.run("controller-update")
    assert outcome.returncode == 0, outcome.output[-3000:]


@pytest.fixture(scope="module")
def upgrade(installed: None, machines: Machines, api: PrefectApi, runs: SteadyRuns) -> Upgrade:
    """What upgrade.yml did while runs were under way."""
    older = api.request("GET", "/admin/version")
    before = start_times(machines, _UNITS)
    runs.plan(100)
    runs.wait_until_running()
    started = time.monotonic()
    returncode, output = played(machines, "upgrade.yml")
    seconds = time.monotonic() - started
    return Upgrade(returncode, output, seconds, before, start_times(machines, _UNITS), older)


def _changed(output: str) -> dict[str, int]:
    recap = re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", output, re.MULTILINE)
    return {host: int(count) for host, count in recap if int(count)}


@pytest.mark.usefixtures("installed")
def test_check_says_what_it_would_do_and_does_nothing(machines: Machines, api: PrefectApi) -> None:
    before, version = start_times(machines, _UNITS), api.request("GET", "/admin/version")
    returncode, output = played(machines, "upgrade.yml", "--check")
    assert returncode == 0, output[-5000:]
    for name in (SERVER, *CPU_WORKERS):
        assert re.search(rf"{name}: Prefect {re.escape(version)} \(prefect-\w+\) -> \S+ \(prefect-\w+\)", output), (
            output
        )
    assert (start_times(machines, _UNITS), api.request("GET", "/admin/version")) == (before, version)
    assert "No such file" in machines.ssh(CONTROLLER, "ls /opt/pag/upgrade 2>&1 || true")


def test_the_server_and_the_workers_have_the_new_version(upgrade: Upgrade, machines: Machines, api: PrefectApi) -> None:
    assert upgrade.returncode == 0, upgrade.output[-8000:]
    newer = api.request("GET", "/admin/version")
    assert newer != upgrade.older
    assert f"The cluster runs Prefect {newer}" in upgrade.output
    for name in (SERVER, *CPU_WORKERS):
        assert machines.ssh(name, "ls -d /opt/prefect/pixi-env/env/lib/python3*/site-packages/prefect-*.dist-info") \
            .strip().endswith(f"/prefect-{newer}.dist-info")  # fmt: skip


def test_only_what_runs_prefect_was_restarted(upgrade: Upgrade) -> None:
    assert {service for service, time in upgrade.after.items() if time != upgrade.before[service]} == _PREFECT


def test_no_run_was_lost(upgrade: Upgrade, runs: SteadyRuns) -> None:
    assert runs.lost() == {}
    assert upgrade.older in runs.api.logs(runs.runs[0])
    report(f"upgrade.yml took {upgrade.seconds:.0f} s; {len(runs.runs)} runs meanwhile, none was lost")


@pytest.mark.usefixtures("upgrade")
def test_a_second_time_it_changes_nothing(machines: Machines) -> None:
    returncode, output = played(machines, "upgrade.yml")
    assert returncode == 0, output[-5000:]
    assert _changed(output) == {}
    assert "there is nothing to do" in output


@pytest.mark.usefixtures("upgrade")
def test_the_way_back_is_told(machines: Machines, upgrade: Upgrade) -> None:
    returncode, output = played(machines, "rollback.yml", "--check")
    assert returncode == 0, output[-5000:]
    assert re.search(rf"{SERVER}: Prefect \S+ \(prefect-\w+\) -> {re.escape(upgrade.older)}", output), output


@pytest.mark.usefixtures("upgrade")
def test_changed_settings_restart_what_they_concern(machines: Machines) -> None:
    """Of the server, one worker, and the proxy in front of the server; and all else stays as it is."""
    before = start_times(machines, _UNITS)
    proxy = machines.ssh(SERVER, "pgrep --newest --full 'nginx: worker'")
    machines.ssh(SERVER, "echo '# changed by hand' | sudo tee -a /etc/nginx/conf.d/prefect.conf")
    inventory = "pag-software-bundle/ansible/inventory.yml"
    settings = {
        SERVER: f"prefect_server_settings: {{{_SERVER_SETTING}}}",
        CPU_WORKERS[0]: f"prefect_worker_settings: {{{_WORKER_SETTING}}}",
    }
    for host, setting in settings.items():
        machines.ssh(CONTROLLER, rf"sed -i 's/^\( *\){host}:$/&\n\1  {setting}/' {inventory}")
    returncode, output = played(machines, "main.yml")
    assert returncode == 0, output[-5000:]
    after = start_times(machines, _UNITS)
    assert {service for service, time in after.items() if time != before[service]} == {
        (SERVER, "prefect-server.service"),
        (CPU_WORKERS[0], "prefect-worker-cpu.service"),
    }
    assert machines.ssh(SERVER, "pgrep --newest --full 'nginx: worker'") != proxy
    # What the upgrade left is what main.yml wants.
    assert set(_changed(output)) == {SERVER, CPU_WORKERS[0]}
