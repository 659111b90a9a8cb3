"""The workers, as the running systems show them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import readme
from cluster_site import CPU_WORKERS, GPU_WORKERS
from machines import Machines
from prefect_api import PrefectApi
from test_server import assert_running
from testinfra.host import Host

On = Callable[[str], Host]

_UNITS = [(name, "prefect-worker-cpu") for name in CPU_WORKERS] + [(name, "prefect-worker-gpu") for name in GPU_WORKERS]


@pytest.mark.parametrize(("name", "unit"), _UNITS)
def test_workers_run_and_start_at_boot(on: On, name: str, unit: str) -> None:
    assert_running(on(name), unit)


@pytest.mark.parametrize("name", sorted(set(CPU_WORKERS) - set(GPU_WORKERS)))
def test_a_node_without_gpus_has_no_gpu_worker(on: On, name: str) -> None:
    assert not on(name).file("/etc/systemd/system/prefect-worker-gpu.service").exists


@pytest.mark.parametrize(("name", "unit"), _UNITS)
def test_workers_have_no_rights_to_gain(on: On, name: str, unit: str) -> None:
    properties = on(name).service(unit).systemd_properties
    assert (properties["User"], properties["NoNewPrivileges"]) == ("prefect", "yes")


@pytest.mark.parametrize(("name", "unit"), _UNITS)
def test_workers_settings_are_roots(on: On, name: str, unit: str) -> None:
    file = on(name).file(f"/etc/prefect/{unit.removeprefix('prefect-')}.env")
    assert (file.user, oct(file.mode)) == ("root", oct(0o600))


def test_the_gpu_worker_knows_its_gpus(on: On) -> None:
    settings = on(GPU_WORKERS[0]).file("/etc/prefect/worker-gpu.env").content_string
    assert 'WORKER_GPU_IDS="0,1"' in settings
    assert "WORKER_ID=" in settings


@pytest.mark.parametrize("name", CPU_WORKERS)
def test_workers_offer_nothing_on_the_network(on: On, name: str) -> None:
    lines = on(name).check_output("ss --no-header --listening --tcp --numeric").splitlines()
    outside = {line.split()[3] for line in lines if not line.split()[3].startswith(("127.", "[::1]"))}
    assert {address.rpartition(":")[2] for address in outside} == {"22"}


@pytest.mark.parametrize(("pool", "names"), [("cpu-pool", CPU_WORKERS), ("gpu-pool", GPU_WORKERS)])
def test_the_server_sees_the_workers_by_their_hosts_names(api: PrefectApi, pool: str, names: tuple[str, ...]) -> None:
    online = {worker["name"] for worker in api.workers(pool) if worker["status"] == "ONLINE"}
    assert set(names) <= online


def test_every_gpu_has_a_limit_of_one(api: PrefectApi) -> None:
    limits = {limit["name"]: limit["limit"] for limit in api.request("POST", "/v2/concurrency_limits/filter", {})}
    expected = {f"gpu-{name}-{number}": 1 for name in GPU_WORKERS for number in (0, 1)}
    assert expected.items() <= limits.items()


def test_prefect_by_hand_on_a_worker(machines: Machines) -> None:
    # Typed into one shell after the other: the first command opens the next one.
    typed = "\n".join(readme.commands("worker-by-hand")) + "\n"
    said = machines.ssh(CPU_WORKERS[0], "bash -s", stdin=typed)
    assert "demo1" in said
