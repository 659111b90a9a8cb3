#!/usr/bin/env python3
"""Turn all machines of a cluster off and on again, with a run scheduled for the time in between."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from cluster_site import secrets_of
from machines import Machines
from prefect_api import PrefectApi

# Workers take runs up to 10 s before they are due; this one is to be nobody's when the machines go down.
_DELAY_SECONDS = 20.0

RECORD = "outage-run"
"""File in the cluster's directory with the id of the run that was scheduled."""


def main(arguments: Sequence[str]) -> int:
    """Schedule a run of a deployment, then stop and start everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cluster", required=True)
    machines = Machines(parser.parse_args(arguments).cluster)
    with machines.tunnel() as port:
        api = PrefectApi(f"http://localhost:{port}/api", secrets_of(machines).basic_auth)
        names = sorted(
            f"{api.request('GET', '/flows/' + deployment['flow_id'])['name']}/{deployment['name']}"
            for deployment in api.deployments()
            if deployment["work_pool_name"] == "cpu-pool"
        )
        run = api.start(names[0], delay=_DELAY_SECONDS)
    due = time.monotonic() + _DELAY_SECONDS
    (machines.directory / RECORD).write_text(run)
    machines.testbed("stop")
    time.sleep(max(0.0, due - time.monotonic()))
    machines.testbed("start")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
