"""molecule's scenarios: each is a test, and each check that it makes is counted."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from counting import Counts

pytestmark = [pytest.mark.scenario]

REPOSITORY = Path(__file__).resolve().parent.parent
_SCENARIOS = sorted(file.parent.name for file in REPOSITORY.glob("molecule/*/molecule.yml"))
# What takes too long for every day is named so.
_LONG = "long-"

# Scenarios have clusters of their own and mostly wait: two at once end earlier, also on two cores. Long ones, which
# pull plugs and take times, have the machine for themselves.
_AT_ONCE = 2
_LONGEST_FIRST = ("default", "operations", "mixed")

# How much of a failed scenario's log is shown.
_TAIL_LINES = 150


@dataclass(frozen=True)
class Ended:
    """What came of a scenario."""

    returncode: int
    seconds: float


@dataclass
class Runner:
    """Runs scenarios, some at once, each into its log and its report."""

    logs: Path
    at_once: int
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _futures: dict[str, Future[Ended]] = field(default_factory=dict)
    _pool: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.at_once)

    def log(self, scenario: str) -> Path:
        return self.logs / f"{scenario}.log"

    def report(self, scenario: str) -> Path:
        return self.logs / f"{scenario}.xml"

    def submit(self, scenario: str) -> None:
        self.report(scenario).unlink(missing_ok=True)
        self._futures[scenario] = self._pool.submit(self._run, scenario)

    def wait(self, scenario: str) -> Ended:
        return self._futures[scenario].result()

    def stop(self) -> None:
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
                env=_environment(self.report(scenario)),
            )
            self._processes.append(process)
            return Ended(process.wait(), time.monotonic() - started)


@pytest.fixture(scope="session")
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """All scenarios that were chosen, started in an order that ends early."""
    logs = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pag" / "test-logs"
    logs.mkdir(parents=True, exist_ok=True)
    chosen = [
        str(item.callspec.params["scenario"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_scenario
    ]
    runs = Runner(logs, 1 if any(name.startswith(_LONG) for name in chosen) else _AT_ONCE)
    with contextlib.ExitStack() as stack:
        stack.callback(runs.stop)
        for scenario in sorted(chosen, key=_rank):
            runs.submit(scenario)
        yield runs


def _rank(scenario: str) -> int:
    return _LONGEST_FIRST.index(scenario) if scenario in _LONGEST_FIRST else len(_LONGEST_FIRST)


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(name, marks=[pytest.mark.long] if name.startswith(_LONG) else [])
        for name in sorted(_SCENARIOS, key=_rank)
    ],
)
def test_scenario(
    scenario: str, runner: Runner, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    log, report = runner.log(scenario), runner.report(scenario)
    with capsys.disabled():
        print(f"\nScenario {scenario}, its log is {log}", flush=True)
    ended = runner.wait(scenario)
    counts = request.config.pluginmanager.get_plugin(Counts.NAME)
    assert isinstance(counts, Counts)
    passed = failed = skipped = 0
    if report.exists():
        passed, failed, skipped = counts.add_junit(report)
    with capsys.disabled():
        print(f"  {passed} passed, {failed} failed, {skipped} skipped, in {ended.seconds:.0f} s")
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
    assert ended.returncode == 0, f"The scenario {scenario} failed, the end of its log {log}:\n{tail}"
    assert report.exists(), f"The scenario {scenario} checked nothing: see {log}."


def _environment(report: Path) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))}
    # pytest's own, for the checks that molecule's verifier runs; the variables of this run are not theirs.
    environment["PYTEST_ADDOPTS"] = f"--junitxml={report}"
    environment["ANSIBLE_NOCOLOR"] = "1"
    environment["NO_COLOR"] = "1"
    environment.pop("PYTEST_CURRENT_TEST", None)
    return environment
