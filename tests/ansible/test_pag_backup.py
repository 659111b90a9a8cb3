"""The program that makes backups, with a database that answers from a table: nothing half, nothing lost."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ansible.module_utils import server_backup

FILES = Path(__file__).resolve().parents[2] / "ansible/roles/backup/files"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The program, as it is beside the module that it shares with the playbooks."""
    monkeypatch.setitem(sys.modules, "server_backup", server_backup)
    spec = importlib.util.spec_from_file_location("pag_backup", FILES / "pag_backup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "pag_backup", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "Database", _Database)
    monkeypatch.setattr(module, "check_dump", lambda path: None)
    _Database.failure = None
    mask = os.umask(0o022)
    yield module
    # The program makes everything private.
    os.umask(mask)


class _Database:
    """Answers by the beginning of the question."""

    failure: BaseException | None = None
    answers = (
        ("SELECT pg_database_size", "20000000"),
        ("\nSELECT coalesce(sum(pg_table_size", "8000000"),
        ("SHOW server_version", "15.9 (Debian 15.9-0)"),
        ("SELECT version_num", "abc123"),
        ("SELECT count(*) FROM configuration", "1"),
        ("SELECT count(*)", "3"),
        ("\nSELECT coalesce(jsonb_agg", '[{"flow": "my-flow"}]'),
    )

    def __init__(self, name: str, user: str) -> None:
        assert (name, user) == ("prefect", "postgres")

    def ask(self, query: str) -> str:
        return next(answer for start, answer in self.answers if query.startswith(start))

    def dump(self, path: Path) -> None:
        path.write_bytes(b"PGDMP" * 100)
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        pass


@pytest.fixture
def configuration(program: ModuleType, tmp_path: Path) -> Any:
    packages = tmp_path / "prefect/envs/prefect-1/env/lib/python3.11/site-packages"
    (packages / "prefect-3.8.8.dist-info").mkdir(parents=True)
    (packages / "prefect_redis-0.2.dist-info").mkdir()
    (tmp_path / "prefect/pixi-env").symlink_to("envs/prefect-1")
    (tmp_path / "prefect/envs/prefect-1/.complete").touch()
    for name in ("settings", "environments", "backups"):
        (tmp_path / name).mkdir()
    (tmp_path / "settings/server.env").write_text('PREFECT_SERVER_API_AUTH_STRING="admin:x"\n')
    (tmp_path / "environments/prefect.debian-12.json").write_text('{"digest": "0123"}')
    content = {
        "directory": str(tmp_path / "backups"),
        "keep": 2,
        "database": "prefect",
        "database_user": "postgres",
        "settings": str(tmp_path / "settings"),
        "environment": str(tmp_path / "prefect/pixi-env"),
        "environments": str(tmp_path / "environments"),
        "bundle": {"version": "1", "digest": "d"},
    }
    (tmp_path / "backup.json").write_text(json.dumps(content))
    return program.Configuration.read(tmp_path / "backup.json")


def _listing(configuration: Any) -> set[str]:
    return {path.name for path in configuration.directory.iterdir()} - {".lock", "last.json"}


def test_a_backup_is_whole_and_says_what_it_has(program: ModuleType, configuration: Any) -> None:
    made = program.back_up(configuration)
    backup = server_backup.load(configuration.directory / made["name"])
    assert {entry["path"] for entry in backup.manifest["files"]} == {
        "database.dump",
        "deployments.json",
        "environments.json",
        "settings/server.env",
    }
    manifest = backup.manifest
    assert (manifest["prefect"], manifest["postgresql"], manifest["schema_revision"]) == ("3.8.8", "15.9", "abc123")
    assert manifest["encryption_key"] == {"place": "database"}
    environments = json.loads((backup.path / "environments.json").read_text())
    assert environments == {
        "in_use": "prefect-1",
        "installed": ["prefect-1"],
        "descriptions": {"prefect.debian-12.json": "0123"},
    }


def test_a_key_of_the_settings_is_known_by_its_digest(program: ModuleType, configuration: Any) -> None:
    with (configuration.settings / "server.env").open("a") as stream:
        stream.write('PREFECT_SERVER_ENCRYPTION_KEY="secret"\n')
    key = program.back_up(configuration)["encryption_key"]
    assert key["place"] == "settings"
    assert "secret" not in json.dumps(key)
    assert len(key["sha256"]) == 64


def test_only_the_newest_are_kept(program: ModuleType, configuration: Any) -> None:
    names = [program.back_up(configuration)["name"] for _ in range(4)]
    assert _listing(configuration) == set(names[-2:])


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_one_that_fails_leaves_what_was_there(
    failure: BaseException, program: ModuleType, configuration: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [program.back_up(configuration)["name"] for _ in range(2)]
    monkeypatch.setattr(_Database, "failure", failure)
    with pytest.raises(type(failure)):
        program.back_up(configuration)
    assert _listing(configuration) == set(names)


def test_what_a_killed_one_left_is_removed(program: ModuleType, configuration: Any) -> None:
    (configuration.directory / ".partial-2026-11-20T021500Z/settings").mkdir(parents=True)
    made = program.back_up(configuration)
    assert _listing(configuration) == {made["name"]}


def test_a_full_disk_is_refused_beforehand(
    program: ModuleType, configuration: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 40, 1 << 40, 70 << 20))
    with pytest.raises(server_backup.BackupError, match="has 70 MiB free and the backup may take 71 MiB"):
        program.back_up(configuration)
    assert _listing(configuration) == set()
    # The last dump tells that the next one is small.
    monkeypatch.undo()
    monkeypatch.setattr(program, "Database", _Database)
    monkeypatch.setattr(program, "check_dump", lambda path: None)
    program.back_up(configuration)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 40, 1 << 40, 70 << 20))
    assert program.back_up(configuration)["removed"] == []


def test_two_at_once_are_refused(program: ModuleType, configuration: Any) -> None:
    with program._alone(configuration.directory), pytest.raises(server_backup.BackupError, match="under way"):
        program.back_up(configuration)


def test_the_outcome_is_written_down(
    program: ModuleType, configuration: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main([str(tmp_path / "backup.json")]) == 0
    last = json.loads((configuration.directory / "last.json").read_text())
    assert last["succeeded"]
    assert last["message"] in capsys.readouterr().out
    (configuration.environment.resolve() / "env/lib/python3.11/site-packages/prefect-3.8.8.dist-info").rmdir()
    assert program.main([str(tmp_path / "backup.json")]) == 1
    last = json.loads((configuration.directory / "last.json").read_text())
    assert not last["succeeded"]
    assert "There is no Prefect in" in capsys.readouterr().err


def test_without_settings_it_says_what_to_do(
    program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main([str(tmp_path / "none.json")]) == 1
    assert "run main.yml --tags prefect-server" in capsys.readouterr().err
