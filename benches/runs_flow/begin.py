"""Do what ``python -m prefect.engine`` does, and note when the process was forked, came here, and had its imports."""

import time

entered = time.time()

import prefect.flow_engine  # noqa: E402

imported = time.time()

import json  # noqa: E402
import os  # noqa: E402
import runpy  # noqa: E402
from pathlib import Path  # noqa: E402

# Field 22 of proc(5)'s stat: in clock ticks since the machine's boot.
_FIELDS = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
_AGE = time.clock_gettime(time.CLOCK_BOOTTIME) - int(_FIELDS[19]) / os.sysconf("SC_CLK_TCK")

os.environ["BENCH_RUNS"] = json.dumps({"forked": time.time() - _AGE, "entered": entered, "imported": imported})
assert prefect.flow_engine  # noqa: S101
runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
