"""Login and database password are changed in secrets.yml, and workers' programs, while runs go on; none is lost."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from cluster_site import CPU_WORKERS, SERVER, Secrets
from guide import CONTROLLER
from machines import Machines
from playbooks import DIRECTORY, Result, played
from prefect_api import ApiError, PrefectApi, worker_of
from steady_runs import SteadyRuns, start_times
from testinfra.host import Host

On = Callable[[str], Host]

ROTATED = Secrets(basic_auth="admin:another/log+in$x", database_password="another/pass+word%y")
PREVIOUS = "/etc/pag/logins/previous.conf"
TIMER = "pag-previous-login.timer"
WORKER = "prefect-worker-cpu.service"
PROGRAM = "/usr/local/lib/pag-worker/__main__.py"
# Seconds between two runs, while workers get newer programs.
_PAUSE = 2
_UNITS = {SERVER: ["prefect-server.service"], **{name: [WORKER] for name in CPU_WORKERS}}


@dataclass(frozen=True)
class Rotation:
    """What was seen after ``main.yml`` with other secrets."""

    played: Result
    lost: dict[str, str]
    restarted: set[str]
    between: list[dict[str, Any]]
    """Runs that workers began with the replaced login, when the server had the new one already."""
    begun: dict[str, list[float]]
    """When each worker began its runs, in seconds since 1970."""


def _write(machines: Machines, secrets: Secrets) -> None:
    machines.write(CONTROLLER, f"{DIRECTORY}/secrets.yml", secrets.to_yaml())
    machines.ssh(CONTROLLER, f"cd {DIRECTORY} && ansible-vault encrypt secrets.yml")


def _is_refused(api: PrefectApi) -> bool:
    try:
        api.work_pools()
    except ApiError as error:
        return "401" in str(error)
    return False


@pytest.fixture(scope="module")
def port(machines: Machines) -> Iterator[int]:
    """A tunnel to the server, for the whole module."""
    with machines.tunnel() as opened:
        yield opened


@pytest.fixture(scope="module")
def before(port: int, secrets: Secrets) -> PrefectApi:
    """The API with the login that is replaced."""
    return PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth)


@pytest.fixture(scope="module")
def after(port: int) -> PrefectApi:
    """The API with the other one."""
    return PrefectApi(f"http://localhost:{port}/api", ROTATED.basic_auth)


@pytest.fixture(scope="module")
def rotated(machines: Machines, secrets: Secrets, before: PrefectApi, after: PrefectApi) -> Iterator[Rotation]:
    """The cluster with other secrets; the last check gives it its own ones back.

    The server has them first. How long workers begin runs with the replaced login depends on the machines: here it is
    long enough for some. The workers get newer programs by the way, as if these had been others.
    """
    steady = SteadyRuns(machines, before)
    steady.deploy()
    started = start_times(machines, _UNITS)
    steady.plan(60, pause=4)
    steady.wait_until_running()
    _write(machines, ROTATED)
    try:
        played(machines, "main.yml", "--tags", "prefect-server", "-e", "receipt_use=false")
        between = [after.wait(run) for run in [after.start("steady/steady") for _ in CPU_WORKERS * 2]]
        for name in CPU_WORKERS:
            machines.ssh(name, f"echo '# Another.' | sudo tee --append {PROGRAM} >/dev/null")
        with ThreadPoolExecutor() as pool:
            play = pool.submit(played, machines, "main.yml")
            while not play.done():
                steady.add()
                time.sleep(_PAUSE)
            result = play.result()
        now = start_times(machines, _UNITS)
        restarted = {machine for machine, unit in now if now[machine, unit] != started[machine, unit]}
        lost = steady.lost()
        yield Rotation(result, lost, restarted, between, _begun(before, steady.runs))
    finally:
        if not _is_refused(after):
            _write(machines, secrets)
            played(machines, "main.yml", "-e", "old_login_hours=0")


def _begun(api: PrefectApi, runs: list[str]) -> dict[str, list[float]]:
    """Return when each worker took its runs, in seconds since 1970."""
    begun: dict[str, list[float]] = {name: [] for name in CPU_WORKERS}
    for run in runs:
        states = api.request("GET", f"/flow_run_states/?flow_run_id={run}")
        taken = min(state["timestamp"] for state in states if state["type"] == "PENDING")
        worker = worker_of(api.request("GET", f"/flow_runs/{run}"))
        assert worker is not None
        begun[worker].append(datetime.fromisoformat(taken).timestamp())
    return begun


def test_no_run_is_lost(rotated: Rotation) -> None:
    assert rotated.lost == {}


def test_a_run_that_is_begun_with_the_replaced_login_completes(rotated: Rotation) -> None:
    assert [run["state_name"] for run in rotated.between] == ["Completed"] * len(rotated.between)
    assert rotated.between


def test_whoever_logs_in_was_restarted(rotated: Rotation) -> None:
    assert rotated.restarted == {SERVER, *CPU_WORKERS}


def test_no_run_begins_with_newer_programs_than_its_worker(rotated: Rotation, machines: Machines) -> None:
    started = f"systemctl show --property=ActiveEnterTimestamp --value --timestamp=us+utc {WORKER}"
    for name, times in rotated.begun.items():
        replaced = float(machines.ssh(name, f"stat --format=%.9Z {PROGRAM}"))
        restarted = float(machines.ssh(name, f'date +%s.%N --date "$({started})"'))
        assert min(times) < replaced < restarted
        # Longer than there was no run to begin.
        assert restarted - replaced > _PAUSE, (replaced, restarted)
        assert [moment for moment in times if replaced < moment < restarted] == []


def test_both_logins_are_right_for_a_day(rotated: Rotation, before: PrefectApi, after: PrefectApi, on: On) -> None:
    del rotated
    assert before.work_pools() == after.work_pools() != []
    file = on(SERVER).file(PREVIOUS)
    assert (file.user, file.mode, on(SERVER).file("/etc/pag/logins").mode) == ("root", 0o600, 0o700)
    assert on(SERVER).service(TIMER).is_running
    assert on(SERVER).service(TIMER).is_enabled
    until = file.content_string.splitlines()[0].removeprefix("# Until ")
    assert f"OnCalendar={until}" in on(SERVER).file(f"/etc/systemd/system/{TIMER}").content_string


def test_a_second_run_changes_nothing(rotated: Rotation) -> None:
    """The server had its turn just before, and was asked everything again."""
    (asked,) = re.findall(rf"^{SERVER}\s+: ok=(\d+)", rotated.played.output, re.MULTILINE)
    assert (int(asked) > 50, rotated.played.changed[SERVER]) == (True, 0)


@pytest.mark.usefixtures("rotated")
def test_when_its_time_is_over_the_old_one_is_refused(before: PrefectApi, after: PrefectApi, on: On) -> None:
    on(SERVER).check_output("systemctl start pag-previous-login.service")
    assert not on(SERVER).file(PREVIOUS).exists
    with pytest.raises(ApiError, match="401"):
        before.work_pools()
    assert after.work_pools()


@pytest.mark.usefixtures("rotated")
def test_new_runs_have_the_new_one(after: PrefectApi) -> None:
    assert after.wait(after.start("steady/steady"))["state_type"] == "COMPLETED"


def test_what_was_known_to_others_is_refused_at_once(
    machines: Machines, rotated: Rotation, secrets: Secrets, before: PrefectApi, after: PrefectApi, on: On
) -> None:
    del rotated
    _write(machines, secrets)
    played(machines, "main.yml", "-e", "old_login_hours=0")
    with pytest.raises(ApiError, match="401"):
        after.work_pools()
    assert before.wait(before.start("steady/steady"))["state_type"] == "COMPLETED"
    assert not on(SERVER).file(PREVIOUS).exists
    assert not on(SERVER).file(f"/etc/systemd/system/{TIMER}").exists
