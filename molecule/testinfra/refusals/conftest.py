"""What the tests of refusals share: the finished cluster, and a machine that has nothing yet and little disk."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_site import Secrets
from machines import Machines
from prefect_api import PrefectApi

sys.path.insert(0, str(Path(__file__).resolve().parent))

import refusing
from refusing import BUNDLE, CONTROLLER, SITE, Cluster

FRESH = "pag-fresh"
# Room for an unpacked bundle and half an archive; less than the preflight demands of a node.
_FRESH_DISK = "disk=1300M"


@pytest.fixture(scope="session")
def cluster(machines: Machines, secrets: Secrets) -> Iterator[Cluster]:
    """Return the finished cluster; nothing of what the tests prepare on it is left behind."""
    with machines.tunnel() as port:
        opened = Cluster(machines, PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth))
        copy = f"rm -rf refusals && mkdir -p {SITE} && cd {BUNDLE} && cp -a ansible flows manifest.json ../{SITE}/"
        opened.do(CONTROLLER, copy)
        yield opened
        opened.do(CONTROLLER, "rm -rf refusals")


@pytest.fixture(scope="session")
def fresh(cluster: Cluster) -> Iterator[str]:
    """Return the name of a machine of the cluster's network on which nothing was ever installed."""
    refusing.add_machine(cluster, FRESH, "debian-12", _FRESH_DISK)
    yield FRESH
    refusing.remove_machine(cluster, FRESH)


@pytest.fixture
def operators_files(cluster: Cluster) -> Iterator[None]:
    """Put the operator's own inventory and secrets back when the test is over."""
    yield
    cluster.do(CONTROLLER, f"cp --remove-destination {BUNDLE}/ansible/{{inventory,secrets}}.yml {SITE}/ansible/")
