"""The life of nodes: playbooks killed at random tasks and run again, nodes that move, and everything uninstalled.

The tests build on each other, in this order. ``PAG_KILLS`` says how often each playbook is killed (default: 10),
``PAG_SEED`` where.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator

import pytest
import snapshot
from cluster_site import CPU_WORKERS, SERVER, Secrets
from guide import CONTROLLER
from killed_playbooks import Killer, different, finish, state, tasks_of
from machines import Machines
from playbooks import DIRECTORY, write_inventory
from prefect_api import PrefectApi
from scenario_log import report

KILLS = int(os.environ.get("PAG_KILLS", "10"))
NODES = (SERVER, *CPU_WORKERS)
NODE = CPU_WORKERS[0]
GPUS = {CPU_WORKERS[1]: "0,1"}
INSTALL = ("main.yml",)
UNINSTALL = ("uninstall.yml", "-e", "uninstall_confirm=true", "-e", "uninstall_database=true")
REMOVE = ("remove-worker.yml", "-e", f"node={CPU_WORKERS[1]}")

# User, groups and pages that Debian's packages make and never remove, and what was upgraded for PostgreSQL.
_LEFT_BY_DEBIAN = (
    r"^~ [\w-]+ users: - \[\] \+ \['postgres:[^']*'\]$"
    r"|^~ [\w-]+ groups: - \[\] \+ \['postgres', 'ssl-cert'\]$"
    r"|^[+~-] [\w-]+:/(var/www|etc/postgresql$|usr/.*perl)"
)
# A cluster that was uninstalled has a new authority, and has the packages already that PostgreSQL needs newer.
_MADE_ANEW = r"^~ [\w-]+:/etc/pag/(ca|server)\.(crt|key)$|^- [\w-]+:/opt/pag/mirror/apt/[^/]+/perl-"


@pytest.fixture(scope="module")
def killer(machines: Machines) -> Killer:
    """What kills playbooks."""
    seed = os.environ.get("PAG_SEED") or str(time.time_ns() % 10**6)
    report(f"PAG_SEED={seed}")
    write_inventory(machines, CPU_WORKERS, GPUS)
    return Killer(machines, random.Random(seed))  # noqa: S311


@pytest.fixture(scope="module")
def virgin(machines: Machines, killer: Killer) -> snapshot.Contents:
    """The nodes before anything is installed."""
    assert killer
    return state(machines, NODES)


@pytest.fixture(scope="module")
def undisturbed(machines: Machines, virgin: snapshot.Contents) -> tuple[snapshot.Contents, int]:
    """The nodes after an installation that nobody disturbed, and how many tasks that has."""
    assert virgin
    installed = finish(machines, INSTALL)
    return state(machines, NODES), tasks_of(installed)


@pytest.fixture
def api(machines: Machines, secrets: Secrets) -> Iterator[PrefectApi]:
    """The server's API."""
    with machines.tunnel() as port:
        yield PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth)


def _settings_in_use(machines: Machines, node: str, unit: str) -> dict[str, str]:
    """Return the settings that a service runs with."""
    text = machines.ssh(node, f"sudo cat /proc/$(systemctl show --property=MainPID --value {unit})/environ")
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)


def _variables(machines: Machines, **variables: str) -> None:
    """Write variables for all nodes, beside the inventory."""
    lines = "".join(f'{name}: "{value}"\n' for name, value in variables.items())
    machines.ssh(CONTROLLER, f"mkdir -p {DIRECTORY}/host_vars")
    for node in NODES:
        machines.write(CONTROLLER, f"{DIRECTORY}/host_vars/{node}.yml", lines)


def test_new_settings_are_in_use_however_often_it_was_killed(
    machines: Machines, killer: Killer, undisturbed: tuple[snapshot.Contents, int]
) -> None:
    _, tasks = undisturbed
    killed = 0
    for round_number in range(KILLS):
        # Other settings each time: what was written before the kill is not the same as what comes after it.
        _variables(machines, prefect_worker_query_seconds=str(4 + round_number), prefect_server_internal_port="4203")
        killed += killer.kill(INSTALL, tasks)
    report(f"main.yml with new settings was killed {killed} times in {KILLS}")
    assert 2 * killed >= KILLS
    finish(machines, INSTALL)
    used = {node: _settings_in_use(machines, node, "prefect-worker-cpu.service") for node in CPU_WORKERS}
    assert {settings["PREFECT_WORKER_QUERY_SECONDS"] for settings in used.values()} == {str(3 + KILLS)}
    assert _settings_in_use(machines, SERVER, "prefect-server.service")["PREFECT_SERVER_API_PORT"] == "4203"
    assert sum(finish(machines, INSTALL).changed.values()) == 0


def test_settings_that_went_back_leave_nothing(machines: Machines, undisturbed: tuple[snapshot.Contents, int]) -> None:
    machines.ssh(CONTROLLER, f"rm -rf {DIRECTORY}/host_vars")
    finish(machines, INSTALL)
    assert different(undisturbed[0], state(machines, NODES)) == []


def _server_knows(api: PrefectApi, node: str) -> tuple[list[str], list[str]]:
    pools = [pool for pool in ("cpu-pool", "gpu-pool") if node in {worker["name"] for worker in api.workers(pool)}]
    limits = api.request("POST", "/v2/concurrency_limits/filter", {"limit": 200})
    return pools, sorted(limit["name"] for limit in limits if limit["name"].startswith(f"gpu-{node}-"))


def _kinds(machines: Machines, node: str) -> dict[str, list[str]]:
    """Return for which kinds of workers there is something on the node, by place."""
    places = {
        "units": "ls -d /etc/systemd/system/prefect-worker-*",
        "links": "ls -d /etc/systemd/system/*.wants/prefect-worker-*",
        "settings": "sudo ls -d /etc/prefect/worker-*",
        "records": "sudo ls -d /var/lib/prefect-worker-*",
        "loaded": "systemctl list-units --all --plain --no-legend 'prefect-worker-*'",
    }
    found = {}
    for place, script in places.items():
        text = machines.ssh(node, f"{script} 2> /dev/null; true")
        found[place] = sorted(kind for kind in ("cpu", "gpu") if f"worker-{kind}" in text)
    return found


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize(("kinds", "gpus"), [(["gpu"], "0,1"), (["gpu"], "1,2"), (["cpu"], ""), (["cpu", "gpu"], "7")])
def test_a_node_that_moves_leaves_nothing_behind(
    machines: Machines, api: PrefectApi, kinds: list[str], gpus: str
) -> None:
    cpu = CPU_WORKERS if "cpu" in kinds else CPU_WORKERS[1:]
    write_inventory(machines, cpu, GPUS | ({NODE: gpus} if "gpu" in kinds else {}))
    moved = finish(machines, ("main.yml", "--tags", "prefect-worker", "--limit", NODE))
    assert set(moved.changed) - {"localhost"} == {NODE}
    assert set(map(tuple, _kinds(machines, NODE).values())) == {tuple(kinds)}
    for kind in kinds:
        machines.ssh(NODE, f"systemctl is-active prefect-worker-{kind}")
    ids = [number for number in gpus.split(",") if number]
    assert _server_knows(api, NODE)[1] == [f"gpu-{NODE}-{number}" for number in ids]
    assert set(_server_knows(api, NODE)[0]) <= {f"{kind}-pool" for kind in kinds}
    if ids:
        assert _settings_in_use(machines, NODE, "prefect-worker-gpu.service")["WORKER_GPU_IDS"] == gpus
    again = finish(machines, ("main.yml", "--tags", "prefect-worker", "--limit", NODE))
    assert again.changed[NODE] == 0


def test_a_removal_that_was_killed_is_finished_by_the_next(
    machines: Machines, killer: Killer, undisturbed: tuple[snapshot.Contents, int], virgin: snapshot.Contents
) -> None:
    write_inventory(machines, CPU_WORKERS, GPUS)
    finish(machines, INSTALL)
    node = CPU_WORKERS[1]
    killer.kill_often(REMOVE, 40, KILLS)
    finish(machines, REMOVE)
    assert different(_of(virgin, node), state(machines, [node])) == []
    finish(machines, INSTALL)
    assert different(undisturbed[0], state(machines, NODES)) == []


def _of(found: snapshot.Contents, node: str) -> snapshot.Contents:
    return {key: value for key, value in found.items() if key.startswith((f"{node}:", f"{node} "))}


def test_uninstalling_that_was_killed_is_finished_by_the_next(
    machines: Machines, killer: Killer, undisturbed: tuple[snapshot.Contents, int], virgin: snapshot.Contents
) -> None:
    """And then every node is what it was, but for the users that Debian's packages leave."""
    assert undisturbed
    killer.kill_often(UNINSTALL, 70, KILLS)
    finish(machines, UNINSTALL)
    after = state(machines, NODES)
    for node in CPU_WORKERS:
        assert different(_of(virgin, node), _of(after, node)) == []
    left = different(_of(virgin, SERVER), _of(after, SERVER))
    report(f"left on the server: {left}")
    assert [line for line in left if not _left_by_debian(line)] == []


def _left_by_debian(line: str) -> bool:
    return bool(re.search(_LEFT_BY_DEBIAN, line))


def test_a_first_installation_that_was_killed_ends_like_an_undisturbed_one(
    machines: Machines, killer: Killer, undisturbed: tuple[snapshot.Contents, int]
) -> None:
    before, tasks = undisturbed
    # Without receipts, or what ends before it is killed would have the next ones ask a few things only.
    killer.kill_often((*INSTALL, "-e", "receipt_use=false"), tasks, KILLS)
    finish(machines, INSTALL)
    found = different(before, state(machines, NODES))
    assert [line for line in found if not re.search(_MADE_ANEW, line)] == []
    assert sum(finish(machines, INSTALL).changed.values()) == 0
