"""Every machine was turned off and on again."""

from __future__ import annotations

import outage
from machines import Machines
from prefect_api import PrefectApi


def test_a_run_that_was_due_while_everything_was_off_is_done(machines: Machines, api: PrefectApi) -> None:
    run = (machines.directory / outage.RECORD).read_text()
    assert api.wait(run, timeout=120)["state_type"] == "COMPLETED"
