"""Backups as directories: whole or refused, the newest kept, and nothing half under a backup's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from backups import write_backup

from ansible.module_utils.server_backup import (
    DUMP,
    MANIFEST,
    PARTIAL_PREFIX,
    REMOVED_PREFIX,
    BackupError,
    load,
    names,
    prune,
    sweep,
)


def _append(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"x")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def test_a_whole_backup_is_loaded(tmp_path: Path) -> None:
    path = write_backup(tmp_path)
    backup = load(path)
    assert backup.dump == path / DUMP
    assert backup.size == sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file()) - (
        (path / MANIFEST).stat().st_size
    )


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: (path / DUMP).unlink(), "is missing from the backup"),
        (lambda path: (path / DUMP).write_bytes(b""), "has 0 bytes and not 5005"),
        (lambda path: _append(path / DUMP), "has 5006 bytes and not 5005"),
        (lambda path: _flip(path / DUMP), "was changed since the backup was made"),
        (lambda path: (path / "settings/server.env").unlink(), "is missing from the backup"),
        (lambda path: (path / "settings/other").write_text("x"), "is not in the backup's manifest"),
        (lambda path: (path / MANIFEST).unlink(), "it has no manifest.json"),
        (lambda path: (path / MANIFEST).write_text("{"), "cannot be read"),
        (lambda path: (path / MANIFEST).write_text("[]"), "cannot be read"),
        (lambda path: (path / MANIFEST).write_text('{"format_version": 1, "files": []}'), "does not describe a backup"),
        (lambda path: (path / MANIFEST).write_text('{"format_version": 2, "files": []}'), "use a newer bundle"),
    ],
)
def test_a_damaged_backup_is_refused(damage: Callable[[Path], object], sentence: str, tmp_path: Path) -> None:
    path = write_backup(tmp_path)
    damage(path)
    with pytest.raises(BackupError, match=sentence):
        load(path)


def test_a_manifest_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    path = write_backup(tmp_path)
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"].append({"path": "../../etc/shadow", "size": 0, "sha256": ""})
    (path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BackupError, match="does not describe a backup"):
        load(path)


def test_the_newest_are_kept_and_other_directories_are_not_touched(tmp_path: Path) -> None:
    made = [write_backup(tmp_path, f"2026-11-{day:02}T021500Z").name for day in range(1, 6)]
    for other in ("controller", f"{PARTIAL_PREFIX}2026-11-09T021500Z", f"{REMOVED_PREFIX}2026-10-01T021500Z"):
        (tmp_path / other).mkdir()
    assert prune(tmp_path, 2) == made[:3]
    assert names(tmp_path) == made[3:]
    assert (tmp_path / "controller").is_dir()
    # What an earlier removal left goes; what is being made stays.
    assert not (tmp_path / f"{REMOVED_PREFIX}2026-10-01T021500Z").exists()
    assert (tmp_path / f"{PARTIAL_PREFIX}2026-11-09T021500Z").is_dir()


def test_the_last_one_is_never_removed(tmp_path: Path) -> None:
    write_backup(tmp_path)
    assert prune(tmp_path, 0) == []
    assert len(names(tmp_path)) == 1


def test_what_a_killed_backup_left_is_swept(tmp_path: Path) -> None:
    write_backup(tmp_path)
    (tmp_path / f"{PARTIAL_PREFIX}a/b").mkdir(parents=True)
    sweep(tmp_path, PARTIAL_PREFIX)
    assert names(tmp_path) == [path.name for path in tmp_path.iterdir()]


def test_several_of_one_second_are_sorted(tmp_path: Path) -> None:
    for name in ("2026-11-20T021500Z-2", "2026-11-20T021500Z"):
        write_backup(tmp_path, name)
    assert names(tmp_path) == ["2026-11-20T021500Z", "2026-11-20T021500Z-2"]
