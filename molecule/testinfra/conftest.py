"""What the checks of running machines share.

``PAG_CLUSTER`` names the cluster; without it, it is the one of molecule's scenario (``test-<scenario>``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import testinfra
from testinfra.host import Host

REPOSITORY = Path(__file__).resolve().parent.parent.parent
for directory in (REPOSITORY / "molecule/shared", REPOSITORY / "molecule/testinfra"):
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))

from cluster_site import Secrets, secrets_of  # noqa: E402
from guide import Guide  # noqa: E402
from leaving_nodes import LeavingNodes, joined  # noqa: E402
from machines import Machines  # noqa: E402
from prefect_api import PrefectApi  # noqa: E402
from scenario_log import write_with  # noqa: E402

SCENARIO = os.environ.get("MOLECULE_SCENARIO_NAME", "default")

# Modules in the order they run in: those that only look come before those that change something, and the count of the
# attempts to leave comes last.
_FIRST = (
    "test_acceptance",
    "test_server",
    "test_door",
    "test_workers",
    "test_environments",
    "test_outage",
    "test_flows",
    "test_boxes",
    "test_redeploy",
    "test_ui",
    "test_firewall",
    "test_mixed",
    "test_delta",
    "test_system_updates",
    "test_upgrade",
    "test_site_lock",
    "test_status",
    "test_drain",
    "test_rotation",
    "test_flow_versions",
    "test_metrics",
    "test_support_bundle",
    "test_retention",
    "test_receipts",
    "test_faults",
    "test_backup",
    "test_remove_worker",
)
_LAST = ("test_planted_secrets", "test_join", "test_uninstall", "test_escapes")

# A module that is named here runs in these scenarios only, every other one in "default" alone.
_IN_ALL_SCENARIOS = ("test_escapes",)
_SCENARIOS = {
    "test_boxes": ("default", "long-kernel"),
    "test_server": ("default", "conda", "mixed"),
    "test_worker_survives": ("conda",),
    "test_environments": ("default", "conda"),
    "test_flows": ("default", "conda"),
    "test_mirror": ("default", "conda"),
    "test_mixed": ("mixed",),
    "test_delta": ("mixed",),
    "test_system_updates": ("mixed",),
    "test_site_lock": ("operations",),
    "test_status": ("operations",),
    "test_drain": ("operations",),
    "test_rotation": ("operations",),
    "test_flow_versions": ("operations",),
    "test_metrics": ("operations",),
    "test_support_bundle": ("operations",),
    "test_retention": ("operations",),
    "test_upgrade": ("operations",),
    "test_receipts": ("operations",),
    "test_faults": ("operations",),
    "test_backup": ("operations",),
    "test_remove_worker": ("operations",),
    "test_uninstall": ("operations",),
    "test_site_certificate": ("long-fuzz",),
}


def pytest_configure(config: pytest.Config) -> None:
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        write_with(capture.global_and_fixture_disabled)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def module(item: pytest.Item) -> str:
        return item.path.stem

    def rank(item: pytest.Item) -> int:
        if module(item) in _FIRST:
            return _FIRST.index(module(item))
        if module(item) in _LAST:
            return 200 + _LAST.index(module(item))
        return 100

    def wanted(item: pytest.Item) -> bool:
        if module(item) in _IN_ALL_SCENARIOS:
            return True
        # test_scenario_<name> and test_long_<name> belong to the scenario of that name.
        if module(item).startswith(("test_scenario_", "test_long_")):
            return module(item).removeprefix("test_").removeprefix("scenario_").replace("_", "-") == SCENARIO
        return SCENARIO in _SCENARIOS.get(module(item), ("default",))

    chosen = sorted((item for item in items if wanted(item)), key=rank)
    config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
    items[:] = chosen


@pytest.fixture(scope="session")
def scenario() -> str:
    """Name of molecule's scenario."""
    return SCENARIO


@pytest.fixture(scope="session")
def machines() -> Machines:
    """The cluster's machines."""
    return Machines(os.environ.get("PAG_CLUSTER", f"test-{SCENARIO}"))


@pytest.fixture(scope="session")
def guide(machines: Machines) -> Guide:
    """The README's commands, where the converging left off."""
    return Guide(machines)


@pytest.fixture(scope="session")
def secrets(machines: Machines) -> Secrets:
    """The cluster's logins."""
    return secrets_of(machines)


@pytest.fixture(scope="session")
def on(machines: Machines) -> Callable[[str], Host]:
    """Return testinfra's view of a machine, by the machine's name; its commands run as root."""
    hosts: dict[str, Host] = {}

    def connect(name: str) -> Host:
        if name not in hosts:
            hosts[name] = testinfra.get_host(f"ssh://{name}", ssh_config=machines.ssh_config, sudo=True)
        return hosts[name]

    return connect


@pytest.fixture(scope="session")
def leaving(machines: Machines) -> Iterator[LeavingNodes]:
    """Two nodes beside the others, to be removed and uninstalled; they join together, which takes half as long."""
    with joined(machines) as nodes:
        yield nodes


@pytest.fixture
def api(machines: Machines, secrets: Secrets) -> Iterator[PrefectApi]:
    """The server's API as an operator at a desk reaches it: through a tunnel to the controller."""
    with machines.tunnel() as port:
        yield PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth)
