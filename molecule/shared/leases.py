"""A flow whose runs write down which GPUs they have and until when, and what those records show.

A record begins in the moment that the lease itself has noted, and ends in the last one in which a program that the run
left in the background could say that it is there. That one has a session of its own and none of the run's files, so
none of its locks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from machines import Machines

PLACE = "/srv/pag-gpus"
"""Where runs write their records, on the workers."""

MAIN = f'''
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from prefect import flow, runtime
from prefect.concurrency.sync import concurrency

LEASED = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
# Does not outlive the box: nobody else ends it.
PRESENT = """
import os, sys, time
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o644)
while True:
    os.pwrite(file, b"%020d" % time.time_ns(), 0)
    time.sleep(0.005)
"""


def opens(device):
    try:
        device.open("rb").close()
    except OSError:
        return False
    return True


@flow(name="leases")
def hold(seconds: float, limited: bool) -> None:
    record = Path("{PLACE}", runtime.flow_run.id)
    opened = [path.name.removeprefix("nvidia") for path in sorted(Path("/dev").glob("nvidia?")) if opens(path)]
    noted = [json.loads(Path("/run/pag/gpus", f"{{gpu}}.lock").read_text()) for gpu in LEASED]
    assert [lease["run"] for lease in noted] == [record.name] * len(noted)
    begins = min(lease["since"] for lease in noted)
    entry = {{"run": record.name, "gpus": LEASED, "opens": opened, "begins": begins}}
    record.with_suffix(".begins").write_text(json.dumps(entry))
    command = [sys.executable, "-I", "-S", "-c", PRESENT, str(record.with_suffix(".last"))]
    subprocess.Popen(command, start_new_session=True)
    limits = [f"gpu-{{os.environ['WORKER_ID']}}-{{gpu}}" for gpu in LEASED] if limited else []
    with concurrency(limits, occupy=1):
        time.sleep(seconds)
    record.with_suffix(".ends").touch()
'''

# One that was killed while it wrote has an empty record: nothing of it was on a GPU yet.
_SHOW = f"""
set -e
cd {PLACE}
for file in $(find . -name '*.begins' -size +0); do
  run=${{file%.begins}}
  last=; ended=
  if [ -e "$run.last" ]; then last=$(cat "$run.last"); fi
  if [ -e "$run.ends" ]; then ended=yes; fi
  echo "$(cat "$file")|$last|$ended"
done
"""


@dataclass(frozen=True)
class Lease:
    """What a run wrote down; times are nanoseconds since 1970, by the clock of the host that the machines share."""

    run: str
    node: str
    gpus: tuple[str, ...]
    opens: tuple[str, ...]
    """The GPUs whose device files it could open."""
    begins: int
    last: int
    """When something of it was seen last."""
    ended: bool
    """Whether its code came to its end."""


def make_place(machines: Machines, nodes: Iterable[str]) -> None:
    """Have an empty directory for records on the nodes."""
    for node in nodes:
        machines.ssh(node, f"sudo rm -rf {PLACE} && sudo mkdir -m 777 {PLACE}")


def leases(machines: Machines, nodes: Iterable[str]) -> list[Lease]:
    """Return what the runs on these nodes wrote down."""
    # As root: they are the runs' own.
    lines = [(node, line) for node in nodes for line in machines.ssh(node, "sudo sh", stdin=_SHOW).splitlines()]
    return [_read(node, line) for node, line in lines]


def _read(node: str, line: str) -> Lease:
    record, last, ended = line.split("|")
    entry = json.loads(record)
    return Lease(
        run=entry["run"],
        node=node,
        gpus=tuple(entry["gpus"]),
        opens=tuple(entry["opens"]),
        begins=entry["begins"],
        last=int(last or entry["begins"]),
        ended=bool(ended),
    )


def by_gpu(found: Sequence[Lease]) -> dict[str, list[Lease]]:
    """Return the leases of each GPU, ``node/id``, in the order in which they began."""
    gpus: dict[str, list[Lease]] = {}
    for lease in sorted(found, key=lambda lease: lease.begins):
        for gpu in lease.gpus:
            gpus.setdefault(f"{lease.node}/{gpu}", []).append(lease)
    return gpus


def given_twice(found: Sequence[Lease]) -> list[str]:
    """Return a sentence for each GPU that a run got while an earlier one still had it."""
    said = []
    for gpu, given in by_gpu(found).items():
        latest = given[0]
        for lease in given[1:]:
            if lease.begins <= latest.last:
                both = (latest.last - lease.begins) / 1e6
                said.append(f"{gpu} was still {latest.run}'s, for {both:.0f} ms, when {lease.run} had it")
            latest = max(latest, lease, key=lambda one: one.last)
    return said


def shortest_gap(found: Sequence[Lease]) -> float:
    """Return the fewest seconds between two leases of a GPU, from the last sign of one run to the next one's lease."""
    pairs = [pair for given in by_gpu(found).values() for pair in pairwise(given)]
    return min((after.begins - before.last) / 1e9 for before, after in pairs)
