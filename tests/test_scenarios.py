"""molecule's scenarios: each is a test, and each check that it makes is counted."""

from __future__ import annotations

import pytest
from counting import Counts
from scenarios import Scenarios, all_scenarios, is_long

pytestmark = [pytest.mark.scenario]

# How much of a failed scenario's log is shown.
_TAIL_LINES = 150


@pytest.mark.parametrize(
    "scenario",
    [pytest.param(name, marks=[pytest.mark.long] if is_long(name) else []) for name in all_scenarios()],
)
def test_scenario(
    scenario: str, scenarios: Scenarios, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    log, report = scenarios.log(scenario), scenarios.report(scenario)
    with capsys.disabled():
        print(f"\nScenario {scenario}, its log is {log}", flush=True)
    ended = scenarios.wait(scenario)
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
