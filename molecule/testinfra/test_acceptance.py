"""What the playbooks said and did when the README's commands were typed: from the guide's record."""

from __future__ import annotations

import pytest
from guide import Guide, Outcome
from scenario_log import report

_MAIN = ("controller-server", "controller-worker")
# What Ansible's modules weigh on their way to a node: measured at 180 to 252 kB for each task that ran, with its loop.
_MODULE_BYTES = 400_000
# Less than what two workers need that have nothing yet.
_PACKAGE_BYTES = 150_000_000


def _of(guide: Guide, block: str, *, check: bool) -> list[Outcome]:
    found = [outcome for outcome in guide.outcomes() if outcome.block == block and outcome.check == check]
    if not found:
        pytest.fail(f"{block} was not run {'with' if check else 'without'} --check")
    return found


@pytest.mark.parametrize("block", _MAIN)
def test_check_on_virgin_machines_changes_nothing(guide: Guide, block: str) -> None:
    first = _of(guide, block, check=True)[0]
    assert first.returncode == 0, first.output[-3000:]
    assert first.touched == []


@pytest.mark.parametrize("block", [*_MAIN, "controller-flows"])
def test_check_on_finished_machines_finds_nothing_to_do(guide: Guide, block: str) -> None:
    last = _of(guide, block, check=True)[-1]
    assert last.returncode == 0, last.output[-3000:]
    assert {host: count for host, count in last.changed.items() if count} == {}
    assert last.touched == []


@pytest.mark.parametrize("block", [*_MAIN, "controller-flows"])
def test_second_run_changes_nothing(guide: Guide, block: str) -> None:
    first, second = _of(guide, block, check=False)[:2]
    assert sum(first.changed.values()) > 0
    assert {host: count for host, count in second.changed.items() if count} == {}
    assert {host: count for host, count in second.failed.items() if count} == {}


def test_packages_travel_once(guide: Guide) -> None:
    first, second = _of(guide, "controller-worker", check=False)[:2]
    asked = _of(guide, "controller-worker", check=True)[0]
    # What remains are Ansible's own modules.
    assert asked.received < asked.tasks * _MODULE_BYTES
    assert second.received < second.tasks * _MODULE_BYTES
    assert first.received - second.received > _PACKAGE_BYTES


def test_the_flow_playbook_prints_the_deployments_name(guide: Guide) -> None:
    assert "my-workflow/my_workflow" in _of(guide, "controller-flows", check=False)[0].output


def test_figures_are_there_to_read(guide: Guide) -> None:
    """Print what each block took; how fast it must be is nothing that a busy machine can decide."""
    for outcome in guide.outcomes():
        what = f"{outcome.block}{' --check' if outcome.check else ''}"
        report(f"{what}: {outcome.seconds:.1f} s, {outcome.received / 1e6:.1f} MB received")
    assert guide.outcomes()
