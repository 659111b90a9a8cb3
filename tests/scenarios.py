"""molecule's scenarios, run beside everything else: some at once, each into its log and its report."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# What takes too long for every day is named so.
_LONG = "long-"

# Scenarios have clusters of their own and often wait: two at once, and the other tests meanwhile, end earlier, also on
# two cores. Long ones, which pull plugs and take times, have the machine for themselves.
_AT_ONCE = 2
_LONGEST_FIRST = ("default", "operations", "mixed")


@dataclass(frozen=True)
class Ended:
    """What came of a scenario."""

    returncode: int
    seconds: float


@dataclass
class Scenarios:
    """Runs the scenarios that were chosen."""

    chosen: list[str]
    logs: Path
    environment: Mapping[str, str] = field(default_factory=lambda: _environment(os.environ))
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _futures: dict[str, Future[Ended]] = field(default_factory=dict)
    _pool: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(1 if self.are_long else _AT_ONCE)

    @property
    def are_long(self) -> bool:
        """Whether one of them is."""
        return any(map(is_long, self.chosen))

    def log(self, scenario: str) -> Path:
        """Return the file with what molecule says."""
        return self.logs / f"{scenario}.log"

    def report(self, scenario: str) -> Path:
        """Return the file with what came of each check, in JUnit's format."""
        return self.logs / f"{scenario}.xml"

    def start(self) -> None:
        """Start them, in an order that ends early, unless they have been started."""
        for scenario in [] if self._futures else in_order(self.chosen):
            self.report(scenario).unlink(missing_ok=True)
            self._futures[scenario] = self._pool.submit(self._run, scenario)

    def wait(self, scenario: str) -> Ended:
        """Wait until a scenario has ended."""
        self.start()
        return self._futures[scenario].result()

    def stop(self) -> None:
        """End those that are under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        self._pool.shutdown()

    def _run(self, scenario: str) -> Ended:
        started = time.monotonic()
        with self.log(scenario).open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "molecule", "test", "--scenario-name", scenario],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                # pytest's own, for the checks that molecule's verifier runs.
                env={**self.environment, "PYTEST_ADDOPTS": f"--junitxml={self.report(scenario)}"},
            )
            self._processes.append(process)
            return Ended(process.wait(), time.monotonic() - started)


def is_long(scenario: str) -> bool:
    """Return whether a scenario takes too long for every day."""
    return scenario.startswith(_LONG)


def in_order(scenarios: Iterable[str]) -> list[str]:
    """Return scenarios in the order in which they begin."""
    return sorted(scenarios, key=lambda name: (_LONGEST_FIRST.index(name) if name in _LONGEST_FIRST else 99, name))


def all_scenarios() -> list[str]:
    """Return the checkout's scenarios, in that order."""
    return in_order(file.parent.name for file in REPOSITORY.glob("molecule/*/molecule.yml"))


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    # The variables of this run are not theirs.
    environment = {name: value for name, value in given.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))}
    environment.pop("PYTEST_CURRENT_TEST", None)
    return environment | {"ANSIBLE_NOCOLOR": "1", "NO_COLOR": "1"}
