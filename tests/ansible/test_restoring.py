"""The modules that find backups and give runs an end, without a database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flow_run_processes
import prefect_lost_runs
import prefect_restore
import pytest
import server_backup_info
from backups import write_backup

from ansible.module_utils import postgres
from ansible.module_utils.server_backup import load

RUN = "0f9619ff-8b86-d011-b42d-00c04fc964ff"


def test_backups_are_found_by_path_by_name_and_as_the_latest(tmp_path: Path) -> None:
    first, second = tmp_path / "here", tmp_path / "there"
    old, new = write_backup(first, "2026-11-19T021500Z"), write_backup(second, "2026-11-20T021500Z")
    assert server_backup_info.find(str(old), []) == old
    assert server_backup_info.find(f"{old}/database.dump", []) == old
    assert server_backup_info.find("2026-11-20T021500Z", [first, second]) == new
    assert server_backup_info.find("latest", [first, second]) == new
    write_backup(first, "2026-11-20T021500Z")
    # The same name in both: the first.
    assert server_backup_info.find("latest", [first, second]) == first / "2026-11-20T021500Z"
    assert server_backup_info.find("latest", [tmp_path / "nowhere"]) is None
    assert server_backup_info.find("2020-01-01T000000Z", [first, second]) is None


def test_runs_are_known_by_their_processes(tmp_path: Path) -> None:
    for number, environment in enumerate(
        (
            b"A=1\0PREFECT__FLOW_RUN_ID=" + RUN.encode() + b"\0B=2",
            b"PREFECT__FLOW_RUN_ID=\0",
            b"XPREFECT__FLOW_RUN_ID=" + RUN.encode()[::-1],
        )
    ):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "environ").write_bytes(environment)
    (tmp_path / "9").mkdir()
    assert flow_run_processes.runs(tmp_path) == [RUN]


class _Api:
    def __init__(self, runs: list[dict[str, Any]]) -> None:
        self._runs = runs

    def request(self, method: str, path: str, body: Any = None) -> Any:
        assert (method, path) == ("POST", "/flow_runs/filter")
        return self._runs[body["offset"] : body["offset"] + body["limit"]]

    def get(self, path: str) -> Any:
        return {"tags": ["rerun-when-lost"]} if path == "/deployments/tagged" else None


def _run(number: int, moment: str, **changed: Any) -> dict[str, Any]:
    return {
        "id": f"{number}",
        "name": f"run-{number}",
        "tags": [],
        "labels": {},
        "state": {"timestamp": moment},
    } | changed


def test_runs_that_have_told_something_since_are_not_lost() -> None:
    before = prefect_lost_runs.when("2026-11-20T02:15:00+00:00")
    runs = [_run(number, "2026-11-20T02:00:00.123456Z") for number in range(250)]
    runs.append(_run(250, "2026-11-20T03:00:00Z"))
    found = prefect_lost_runs.under_way(_Api(runs), before)
    assert [run["id"] for run in found] == [f"{number}" for number in range(250)]


@pytest.mark.parametrize(
    ("changed", "left"),
    [
        ({}, False),
        ({"id": "alive"}, True),
        ({"labels": {"prefect.worker.name": "pag-worker-9"}}, True),
        ({"labels": {"prefect.worker.name": "pag-worker-1"}}, False),
        ({"labels": None}, False),
    ],
)
def test_runs_that_may_be_alive_are_left(changed: dict[str, Any], left: bool) -> None:
    run = _run(1, "2026-11-20T02:00:00Z", **changed)
    assert prefect_lost_runs.is_left(run, ["alive"], ["pag-worker-9"]) is left


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ({}, False),
        ({"tags": ["rerun-when-lost"]}, True),
        ({"deployment_id": "tagged"}, True),
        ({"deployment_id": "gone"}, False),
    ],
)
def test_runs_with_the_tag_are_run_again(changed: dict[str, Any], again: bool) -> None:
    run = _run(1, "2026-11-20T02:00:00Z", **changed)
    assert prefect_lost_runs.is_rerun(_Api([]), run, "rerun-when-lost") is again


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment whose Prefect knows one revision."""
    directory = tmp_path / "env/lib/python3.11/site-packages/prefect/server/database/_migrations/versions/postgresql"
    directory.mkdir(parents=True)
    (directory / "2026_01_01_abc123_something.py").write_text('revision = "abc123"\ndown_revision = "000000"\n')
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "here", "sentence"),
    [
        ({}, "15.9 (Debian)", None),
        ({}, "17.2", None),
        ({}, "14.20", "is of PostgreSQL 15.9, and here is 14.20"),
        ({"schema_revision": "fff999"}, "15.9", "schema fff999 .* is not known"),
    ],
)
def test_what_is_too_new_for_the_machine_is_refused(
    changed: dict[str, Any],
    here: str,
    sentence: str | None,
    environment: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgres, "value", lambda database, statement: here)
    backup = load(write_backup(tmp_path / "backups", **changed))
    if sentence is None:
        prefect_restore.check(backup, environment)
        return
    with pytest.raises(prefect_restore.RestoreError, match=sentence):
        prefect_restore.check(backup, environment)


def test_rows_that_differ_from_the_manifest_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backup = load(write_backup(tmp_path))
    monkeypatch.setattr(postgres, "query", lambda database, statements: [])
    monkeypatch.setattr(postgres, "run", lambda command, **given: "")
    monkeypatch.setattr(postgres, "value", lambda database, statement: "0")
    with pytest.raises(prefect_restore.RestoreError, match="deployment has 0 rows and not 1"):
        prefect_restore.fill(backup, "prefect_restoring", "prefect", keep_missed=False)


def test_names_and_texts_cannot_leave_their_quotes() -> None:
    assert postgres.literal("it's") == "'it''s'"
    assert postgres.identifier('a"b') == '"a""b"'
