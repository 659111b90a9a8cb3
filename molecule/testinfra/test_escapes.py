"""Nothing tried to leave the network, in all that the scenario did."""

from __future__ import annotations

import os

import pytest
from machines import Machines


def test_nothing_tried_to_leave(machines: Machines) -> None:
    assert machines.escapes() == 0, machines.escaped()


def test_the_counter_counts(machines: Machines) -> None:
    """The last test of all: it shows that the one above could have failed."""
    if os.environ.get("PAG_CLUSTER"):
        pytest.skip("The cluster is not this run's own, and its counter stays as it is.")
    before = machines.escapes()
    # An address for documentation (RFC 5737): nobody's.
    machines.ssh("pag-controller", "timeout 1 bash -c '</dev/tcp/192.0.2.1/80'", check=False)
    assert machines.escapes() > before
