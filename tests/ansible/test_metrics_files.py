"""The role metrics: its program writes Prometheus' format, and the dashboard asks for what the program writes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"
ROLE = ANSIBLE / "roles/metrics"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROLE / "files")
    import pag_metrics

    return pag_metrics


def test_samples_stand_below_their_metric(program: ModuleType) -> None:
    metrics = program.Metrics()
    metrics.add("pag_a", True, "First.", kind='with "quotes" and \\', name="n")
    metrics.add("pag_b", 1.5, "Second.")
    metrics.add("pag_a", 0, "First.", kind="x")
    assert metrics.text() == (
        "# HELP pag_a First.\n# TYPE pag_a gauge\n"
        'pag_a{kind="with \\"quotes\\" and \\\\",name="n"} 1\n'
        'pag_a{kind="x"} 0\n'
        "# HELP pag_b Second.\n# TYPE pag_b gauge\npag_b 1.5\n"
    )


def test_the_file_is_replaced_at_once_and_can_be_read(program: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "pag.prom"
    program.write(file, "a 1\n")
    program.write(file, "a 2\n")
    assert file.read_text() == "a 2\n"
    assert file.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [file]


def test_a_server_that_is_away_is_a_metric(program: ModuleType) -> None:
    metrics = program.Metrics()
    program.add_prefect(metrics, "http://127.0.0.1:9/api", "u:p")
    assert metrics.text().endswith("pag_server_up 0\n")


def test_the_program_runs_with_the_modules_that_the_role_installs(tmp_path: Path) -> None:
    names = yaml.safe_load((ROLE / "vars/main.yml").read_text())["__metrics_modules"]
    (tmp_path / "ansible/module_utils").mkdir(parents=True)
    (tmp_path / "pag_metrics.py").write_bytes((ROLE / "files/pag_metrics.py").read_bytes())
    for name in names:
        (tmp_path / f"ansible/module_utils/{name}.py").write_bytes((ANSIBLE / f"module_utils/{name}.py").read_bytes())
    # As the unit runs it: without other packages.
    command = [sys.executable, "-B", "-S", tmp_path / "pag_metrics.py", "--help"]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_the_dashboard_asks_for_what_the_program_writes() -> None:
    dashboard = json.loads((ROLE / "files/grafana-dashboard.json").read_text())
    asked = {name for panel in dashboard["panels"] for target in panel["targets"]
             for name in re.findall(r"\bpag_\w+", target["expr"])}  # fmt: skip
    written = set(re.findall(r'"(pag_\w+)"', (ROLE / "files/pag_metrics.py").read_text()))
    assert asked
    assert asked <= written
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(numbers) == len(set(numbers))
