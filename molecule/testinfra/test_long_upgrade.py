"""A cluster goes to another Prefect and back, again and again, with failures and killed playbooks; no run is lost.

What happens here happens in the order of the tests; each begins and ends with the older Prefect, the last one aside.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import carry
import pytest
from cluster_site import CPU_WORKERS, SERVER, Secrets
from guide import CONTROLLER, Guide
from machines import Machines
from prefect_api import PrefectApi
from steady_runs import SteadyRuns, played

REPOSITORY = Path(__file__).resolve().parent.parent.parent
_DROP_IN = "/etc/systemd/system/prefect-worker-cpu.service.d/broken.conf"
# An index that one migration makes and a later one looks for: a table of that name lets the later one fail.
_INDEX = "ix_event_resources__occurred"
# Prints the environments of the node's services: their programs are first in the processes' PATH.
_ENVIRONMENTS = r"""
for unit in prefect-server prefect-worker-cpu prefect-worker-gpu; do
    process=$(systemctl show --value --property=MainPID $unit.service)
    [ "$process" = 0 ] || sudo cat /proc/$process/environ | tr '\0' '\n' |
        sed -n 's|^PATH=\(/opt/prefect/envs/[^/]*\)/.*|\1|p'
done
"""
_KILLS = 3
_ASK = """
import urllib.error, urllib.request
try:
    urllib.request.urlopen('https://localhost:4200/api/health')
except urllib.error.HTTPError as error:
    print(error.code, error.headers['Prefect-Maintenance'])
"""
_RANDOM = random.Random(20261121)  # noqa: S311


@pytest.fixture(scope="module")
def api(machines: Machines, secrets: Secrets) -> Iterator[PrefectApi]:
    """The server's API, for the whole module."""
    with machines.tunnel() as port:
        yield PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth)


@pytest.fixture(scope="module")
def older(api: PrefectApi) -> str:
    """The version that the cluster begins with."""
    return str(api.request("GET", "/admin/version"))


@pytest.fixture(scope="module")
def deployed(
    machines: Machines, api: PrefectApi, older: str, guide: Guide, tmp_path_factory: pytest.TempPathFactory
) -> SteadyRuns:
    """A flow with the older Prefect; this checkout's bundle is on the controller, as the README says."""
    assert older
    steady = SteadyRuns(machines, api)
    steady.deploy()
    bundle = tmp_path_factory.mktemp("newer") / carry.BUNDLE_NAME
    assert carry.build(REPOSITORY, bundle, ["--python", "system"]) == 0
    machines.copy([bundle], CONTROLLER, "")
    outcome = guide.run("controller-update")
    assert outcome.returncode == 0, outcome.output[-3000:]
    return steady


@pytest.fixture
def runs(deployed: SteadyRuns) -> Iterator[SteadyRuns]:
    """Runs all the while; at the end none of them may be lost."""
    steady = SteadyRuns(deployed.machines, deployed.api)
    steady.plan(150, pause=6)
    steady.wait_until_running()
    yield steady
    assert steady.lost(timeout=600) == {}


def _versions(machines: Machines) -> set[str]:
    """Return the versions of Prefect that the services of all nodes run on."""
    found = set()
    for name in (SERVER, *CPU_WORKERS):
        for environment in set(machines.ssh(name, "bash -s", stdin=_ENVIRONMENTS).split()):
            metadata = machines.ssh(name, f"ls -d {environment}/env/lib/python3*/site-packages/prefect-*.dist-info")
            found.add(re.sub(r".*/prefect-(.+)\.dist-info\s*", r"\1", metadata))
    return found


def _changes(output: str) -> int:
    return sum(int(number) for number in re.findall(r"^\S+\s+: ok=\d+\s+changed=(\d+)", output, re.MULTILINE))


def test_a_migration_that_fails_stops_it_and_is_brought_back(
    runs: SteadyRuns, machines: Machines, api: PrefectApi, older: str
) -> None:
    psql = "sudo -u postgres psql --quiet prefect -c"
    machines.ssh(SERVER, f"{psql} 'CREATE TABLE {_INDEX} (number integer)'")
    returncode, output = played(machines, "upgrade.yml")
    assert returncode != 0
    assert f"{SERVER} could not be upgraded" in output, output[-5000:]
    assert "go back with rollback.yml" in output
    # Prefect's clients wait while they are told so.
    assert machines.ssh(SERVER, f'SSL_CERT_FILE=/etc/pag/ca.crt python3 -c "{_ASK}"').split() == ["503", "true"]
    machines.ssh(SERVER, f"{psql} 'DROP TABLE {_INDEX}'")
    returncode, output = played(machines, "rollback.yml")
    assert returncode == 0, output[-5000:]
    assert f"The cluster is back on Prefect {older}" in output
    assert api.request("GET", "/admin/version") == older
    assert _versions(machines) == {older}


def test_a_worker_that_fails_stops_it_and_is_brought_back(runs: SteadyRuns, machines: Machines, older: str) -> None:
    bad = CPU_WORKERS[1]
    script = f"mkdir -p {Path(_DROP_IN).parent} && printf '[Service]\\nExecStartPre=/bin/false\\n' > {_DROP_IN}"
    machines.ssh(bad, f"sudo sh -c {script!r}")
    returncode, output = played(machines, "upgrade.yml")
    assert returncode != 0
    assert f"{bad} could not be upgraded" in output, output[-5000:]
    assert f"Done: {SERVER}, {CPU_WORKERS[0]}. Not done: {bad}." in output
    machines.ssh(bad, f"sudo rm {_DROP_IN}")
    returncode, output = played(machines, "rollback.yml")
    assert returncode == 0, output[-5000:]
    assert _versions(machines) == {older}


def test_killed_and_repeated_it_goes_to_its_end(
    runs: SteadyRuns, machines: Machines, api: PrefectApi, older: str
) -> None:
    for _ in range(_KILLS):
        returncode, output = played(machines, "upgrade.yml", kill_after=_RANDOM.uniform(15, 90))
        assert returncode in (0, 137), output[-5000:]
    returncode, output = played(machines, "upgrade.yml")
    assert returncode == 0, output[-5000:]
    assert api.request("GET", "/admin/version") != older
    assert older not in _versions(machines)
    returncode, output = played(machines, "main.yml")
    assert (returncode, _changes(output)) == (0, 0), output[-5000:]


def test_killed_and_repeated_it_goes_back(runs: SteadyRuns, machines: Machines, api: PrefectApi, older: str) -> None:
    for _ in range(_KILLS):
        returncode, output = played(machines, "rollback.yml", kill_after=_RANDOM.uniform(10, 90))
        assert returncode in (0, 137), output[-5000:]
    returncode, output = played(machines, "rollback.yml")
    assert returncode == 0, output[-5000:]
    assert api.request("GET", "/admin/version") == older
    assert _versions(machines) == {older}
    returncode, output = played(machines, "main.yml")
    assert (returncode, _changes(output)) == (0, 0), output[-5000:]
    returncode, output = played(machines, "rollback.yml")
    assert (returncode, _changes(output)) == (0, 0), output[-5000:]


def test_a_flow_that_would_be_newer_than_the_server_is_named(
    deployed: SteadyRuns, machines: Machines, api: PrefectApi
) -> None:
    returncode, output = played(machines, "upgrade.yml")
    assert returncode == 0, output[-5000:]
    newer = api.request("GET", "/admin/version")
    deployed.deploy()
    returncode, output = played(machines, "rollback.yml")
    assert returncode != 0
    assert "steady/steady has a newer Prefect" in output, output[-5000:]
    assert "nothing was changed" in output
    assert _versions(machines) == {newer}
