"""molecule's scenarios: each is a test, and each check that it makes is counted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from counting import Counts

pytestmark = [pytest.mark.scenario]

REPOSITORY = Path(__file__).resolve().parent.parent
_SCENARIOS = sorted(file.parent.name for file in REPOSITORY.glob("molecule/*/molecule.yml"))
# What takes too long for every day is named so.
_LONG = "long-"

# How much of a failed scenario's log is shown.
_TAIL_LINES = 150


@pytest.fixture
def logs() -> Path:
    """Where scenarios' logs are kept after the run."""
    directory = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pag" / "test-logs"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@pytest.mark.parametrize(
    "scenario",
    [pytest.param(name, marks=[pytest.mark.long] if name.startswith(_LONG) else []) for name in _SCENARIOS],
)
def test_scenario(
    scenario: str, logs: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    log, report = logs / f"{scenario}.log", logs / f"{scenario}.xml"
    report.unlink(missing_ok=True)
    with capsys.disabled():
        print(f"\nScenario {scenario}, its log is {log}", flush=True)
    started = time.monotonic()
    with log.open("w") as stream:
        finished = subprocess.run(
            [sys.executable, "-m", "molecule", "test", "--scenario-name", scenario],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=_environment(report),
        )
    counts = request.config.pluginmanager.get_plugin(Counts.NAME)
    assert isinstance(counts, Counts)
    passed = failed = skipped = 0
    if report.exists():
        passed, failed, skipped = counts.add_junit(report)
    with capsys.disabled():
        print(f"  {passed} passed, {failed} failed, {skipped} skipped, in {time.monotonic() - started:.0f} s")
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
    assert finished.returncode == 0, f"The scenario {scenario} failed, the end of its log {log}:\n{tail}"
    assert report.exists(), f"The scenario {scenario} checked nothing: see {log}."


def _environment(report: Path) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))}
    # pytest's own, for the checks that molecule's verifier runs; the variables of this run are not theirs.
    environment["PYTEST_ADDOPTS"] = f"--junitxml={report}"
    environment["ANSIBLE_NOCOLOR"] = "1"
    environment["NO_COLOR"] = "1"
    environment.pop("PYTEST_CURRENT_TEST", None)
    return environment
