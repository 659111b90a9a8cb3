"""Time and disk, as the benchmarks measure them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType

_INTERVAL = 0.02


def run(command: Sequence[str | Path], cwd: Path | None = None, **variables: str) -> str:
    """Return what *command* prints; end the benchmark when it fails."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **variables}
    finished = subprocess.run([str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True)
    if finished.returncode != 0:
        sys.exit(f"{' '.join(map(str, command[:6]))} ... failed: {finished.stdout}{finished.stderr}")
    return finished.stdout


def memory_of(command: Sequence[str | Path]) -> int:
    """Run *command* and return the most bytes that it, or any program that it started, had in memory."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([str(word) for word in command], stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            sys.exit(f"{' '.join(map(str, command[:6]))} ... failed: {output.read()}")
    return usage.ru_maxrss * 1024


def seconds(work: Callable[[], object]) -> float:
    """Return how long *work* takes, with nothing of earlier work left to be written to the disk."""
    os.sync()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def allocated(directories: Iterable[Path]) -> int:
    """Return the bytes allocated below *directories*; files with several names count once."""
    seen: dict[tuple[int, int], int] = {}
    for directory in directories:
        for parent, _, names in os.walk(directory):
            for path in (parent, *(f"{parent}/{name}" for name in names)):
                try:
                    status = os.lstat(path)
                except FileNotFoundError:
                    continue  # removed while we looked
                seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


class PeakOf:
    """The most bytes that were allocated below some directories while a block ran, beyond those before it."""

    def __init__(self, directories: Iterable[Path]) -> None:
        self._directories = list(directories)
        self._before = allocated(self._directories)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.bytes = 0

    def __enter__(self) -> PeakOf:
        """Begin to watch."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Look once more, and end."""
        self._done.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._done.wait(_INTERVAL):
            self._look()

    def _look(self) -> None:
        self.bytes = max(self.bytes, allocated(self._directories) - self._before)
