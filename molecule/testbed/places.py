"""Where the testbed keeps its things on the host; everything it makes is below these or carries a cluster's name."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from process import TestbedError, run

CACHE = Path(os.environ.get("PAG_TESTBED_CACHE", "/var/cache/pag-testbed"))
"""Base root file systems, one for each release."""
STATE = Path(os.environ.get("PAG_TESTBED_STATE", "/var/lib/pag-testbed"))
"""One directory for each cluster."""


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock called *name*; the kernel lets go of it when the holder dies, however it dies."""
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / f".{name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def mounts_below(directory: Path) -> list[Path]:
    """Return what is mounted at or below *directory*, innermost first."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = Path(line.split()[4].encode().decode("unicode_escape"))
        if point == directory or directory in point.parents:
            points.append(point)
    return points[::-1]


def remove_tree(directory: Path) -> None:
    """Unmount everything below *directory* and remove it; one that is not there is no error."""
    if not directory.exists():
        return
    for point in mounts_below(directory):
        if run(["umount", point], check=False).returncode != 0:
            run(["umount", "--lazy", point])
    left = mounts_below(directory)
    if left:
        raise TestbedError(f"{left[0]} is still mounted: unmount it, then try again.")
    run(["rm", "--recursive", "--force", "--one-file-system", directory])
