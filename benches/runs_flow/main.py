"""An empty flow that leaves behind how far its process was when; benches/runs.py deploys it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from prefect import flow

_NOTES = Path("/srv/bench-runs")
"""A directory that runs may write to."""


@flow(name="bench-runs")
def empty() -> None:
    """Note when it was called: one line for each time that the run was started."""
    times = json.loads(os.environ.get("BENCH_RUNS", "{}")) | {"called": time.time()}
    with (_NOTES / os.environ["PREFECT__FLOW_RUN_ID"]).open("a", encoding="utf-8") as notes:
        notes.write(json.dumps(times) + "\n")
