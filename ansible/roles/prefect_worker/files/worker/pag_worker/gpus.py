"""Lease GPUs of this node and become a run's program: ``gpus.py --ids 0,1 --count 1 -- COMMAND``.

A lease is a lock (flock) on a file for each device, whose descriptors the program inherits: the kernel gives it back
when the last process that has them is gone, however it ended. Locks end as shared ones, so that the run's box, which
cannot inherit them, takes them as well; nobody else leases a device while there is either. Waiting runs are served in
the order in which they came; a run holds its place with a lock too, so one that is killed leaves nothing. Standard
library only, and of that what is imported quickly: every run on GPUs starts with this.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

DIRECTORY = Path("/run/pag/gpus")
"""``<id>.lock`` for each device, and ``queue/`` with the places of runs that wait."""

VARIABLE = "PAG_GPU_LEASE"
"""The lease, for the program: ``ID=DESCRIPTOR`` of each device, with commas."""

# How often the first of those that wait asks: often at the beginning, and never less than this. The others sleep.
_ASK_SECONDS = 0.25
_ASK_SOON_SECONDS = 0.005
_LOG_SECONDS = 5.0
_INFO, _ERROR = 20, 40


class TooFewGpusError(Exception):
    """The node does not have as many GPUs as a run wants; the message is one sentence for the run's owner."""


class Lease(NamedTuple):
    """Devices that nobody else has while one of the descriptors is open somewhere."""

    ids: tuple[str, ...]
    descriptors: tuple[int, ...]
    waited: float
    """Seconds."""


class Gpus:
    """The devices of a node that runs may have."""

    def __init__(self, ids: Sequence[str], directory: Path = DIRECTORY) -> None:
        """Take the ids in the order in which they are given out."""
        self._ids = tuple(ids)
        self._directory = directory
        self._queue = directory / "queue"

    def lease(self, count: int, holder: dict[str, Any], waits: Callable[[int], None]) -> Lease:
        """Return a lease of *count* devices; blocks until it is this run's turn and they are free.

        *holder* is noted in the devices' files. *waits* is told, once, how many runs are before this one.
        Raises TooFewGpusError.
        """
        if count > len(self._ids):
            raise TooFewGpusError(
                f"The run wants {_devices(count)}, and {os.uname().nodename} has {len(self._ids)} "
                f"({', '.join(self._ids) or 'none'}): ask for fewer with the job variable gpus."
            )
        if count == 0:
            return Lease((), (), 0.0)
        began = time.monotonic()
        said = False

        def say(before: int) -> None:
            nonlocal said
            if not said:
                said = True
                waits(before)

        taken: dict[str, int] = {}
        with self._turn(say):
            # Nobody else takes any meanwhile: those that are held already are not idle for a later run's sake.
            while len(taken) < count:
                for gpu in self._ids:
                    if gpu not in taken and len(taken) < count:
                        descriptor = _lock(self._directory / f"{gpu}.lock", blocking=False)
                        if descriptor is not None:
                            taken[gpu] = descriptor
                if len(taken) < count:
                    say(0)
                    time.sleep(min(_ASK_SECONDS, _ASK_SOON_SECONDS + (time.monotonic() - began) / 10))
            for descriptor in taken.values():
                _note(descriptor, holder | {"since": time.time_ns()})
                # The kernel gives the one back before the other is there; who could come in between waits for its turn.
                fcntl.flock(descriptor, fcntl.LOCK_SH)
        ids = tuple(gpu for gpu in self._ids if gpu in taken)
        return Lease(ids, tuple(taken[gpu] for gpu in ids), time.monotonic() - began)

    @contextlib.contextmanager
    def _turn(self, say: Callable[[int], None]) -> Iterator[None]:
        """Wait until all runs that came before have their devices, or have ended."""
        self._queue.mkdir(exist_ok=True)
        door = _lock(self._directory / "queue.lock")
        try:
            place = max(self._places(), default=0) + 1
            mine = self._queue / str(place)
            descriptor = _lock(mine)
        finally:
            os.close(door)
        try:
            while before := [number for number in self._places() if number < place]:
                # The nearest one: when it was killed, those before it may still wait.
                _outwait(self._queue / str(max(before)), lambda: say(len(before)))
            yield
        finally:
            mine.unlink()
            os.close(descriptor)

    def _places(self) -> list[int]:
        return [int(path.name) for path in self._queue.iterdir()]


def wrapper(ids: Sequence[str], count: int, directory: Path = DIRECTORY) -> list[str]:
    """Return what stands before ``--`` and a run's command, so that it runs with *count* of the devices."""
    # Isolated, and without what the environment installed: only so is Python started in no time.
    program = [sys.executable, "-I", "-S", __file__]
    return [*program, "--ids", ",".join(ids), "--count", str(count), "--directory", str(directory)]


def environment(lease: Lease) -> dict[str, str]:
    """Return the variables that show a program exactly the devices of its lease."""
    ids = ",".join(lease.ids)
    return {
        "CUDA_VISIBLE_DEVICES": ids,
        # So that a number is the device that nvidia-smi shows under it.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        # HIP counts what ROCr, below it, lets it see.
        "ROCR_VISIBLE_DEVICES": ids,
        "HIP_VISIBLE_DEVICES": ",".join(str(number) for number in range(len(lease.ids))),
        # Flows that take a device's limit on the server take that of their own device.
        "WORKER_GPU_IDS": ids,
        VARIABLE: ",".join(f"{gpu}={descriptor}" for gpu, descriptor in zip(lease.ids, lease.descriptors, strict=True)),
    }


def _lock(file: Path, *, blocking: bool = True) -> Any:
    """Return a descriptor of the file with its lock; None when another has it and it is not to be waited for."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if blocking else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _outwait(place: Path, waits: Callable[[], None]) -> None:
    """Wait until the run that has a place has given it up, or was killed, and see to it that the place is gone."""
    try:
        descriptor = os.open(place, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waits()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.close(descriptor)
    place.unlink(missing_ok=True)


def _note(descriptor: int, holder: dict[str, Any]) -> None:
    """Write down who has a device. It says nothing when nobody has the lock."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode() + b"\n", 0)


def _devices(count: int) -> str:
    return f"{count} GPU{'' if count == 1 else 's'}"


class RunOnServer:
    """What is said of a run before it is a program that could say it: on standard error, and to the server."""

    def __init__(self, run: str | None) -> None:
        self._run = run

    def say(self, message: str, level: int = _INFO) -> None:
        """Add a line to the run's log."""
        print(message, file=sys.stderr, flush=True)
        if self._run is None:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entry = {"name": "prefect.worker.gpus", "level": level, "message": message, "timestamp": now}
        self._request("POST", "/logs/", [entry | {"flow_run_id": self._run}])

    def fail(self, message: str) -> bool:
        """Give the run its end; whether the server was told."""
        self.say(message, _ERROR)
        if self._run is None:
            return False
        state = {"type": "FAILED", "name": "Failed", "message": message}
        return self._request("POST", f"/flow_runs/{self._run}/set_state", {"state": state, "force": True}) is not None

    def free_limits(self, node: str, ids: Sequence[str]) -> None:
        """Take back the slots of devices' limits that killed runs have left: only who has the lease may have one."""
        for gpu in ids if self._run is not None else ():
            path = f"/v2/concurrency_limits/gpu-{node}-{gpu}"
            limit = self._request("GET", path)
            if limit is not None and limit["active_slots"]:
                self._request("PATCH", path, {"active_slots": 0})

    def _request(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer, with an empty one as True; None when there is none."""
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from prefect_api import PrefectApi, PrefectApiError

        try:
            api = PrefectApi(os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"], _LOG_SECONDS)
            answer = api.request(method, path, body)
        except PrefectApiError as error:
            print(f"The server was not told of the run's GPUs: {error}", file=sys.stderr, flush=True)
            return None
        return True if answer is None else answer


def main() -> None:
    """Take the arguments, then the devices, and become the program."""
    parser = argparse.ArgumentParser(prog="gpus", description=__doc__)
    parser.add_argument("--ids", required=True, help="the devices that runs may have, with commas")
    parser.add_argument("--count", required=True, type=int, help="how many the run wants")
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="where the locks are")
    parser.add_argument("command", nargs="+", help="the program and its arguments")
    options = parser.parse_args()
    # From where a run's program learns which run it is.
    run = os.environ.get("PREFECT__FLOW_RUN_ID")
    server = RunOnServer(run)
    gpus = Gpus([gpu for gpu in options.ids.split(",") if gpu], options.directory)
    waited: list[int] = []

    def waits(before: int) -> None:
        waited.append(before)
        runs = f"{before} waiting run{'' if before == 1 else 's'} before this one" if before else "it is the next one"
        server.say(f"The run waits for {_devices(options.count)} of {os.uname().nodename} ({options.ids}): {runs}.")

    # Boxes of all users read the locks.
    mask = os.umask(0o022)
    try:
        lease = gpus.lease(options.count, {"run": run, "pid": os.getpid()}, waits)
    except TooFewGpusError as error:
        # Once the run has its state, there is nothing that its worker would have to report.
        sys.exit(0 if server.fail(str(error)) else 1)
    if waited:
        server.say(f"The run has GPU {', '.join(lease.ids)}, after {lease.waited:.0f} s.")
    os.umask(mask)
    if "WORKER_ID" in os.environ:
        server.free_limits(os.environ["WORKER_ID"], lease.ids)
    for descriptor in lease.descriptors:
        os.set_inheritable(descriptor, True)
    os.environ.update(environment(lease))
    os.execvp(options.command[0], options.command)  # noqa: S606


if __name__ == "__main__":
    main()
