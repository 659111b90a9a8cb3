"""The controller's record of an upgrade: it grows, appears whole, and is not written in check mode."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import upgrade_record


def test_without_a_record_there_is_nothing(tmp_path: Path) -> None:
    assert upgrade_record.run(tmp_path / "upgrade", {}, new=False, check=False) == {
        "changed": False,
        "record": {},
        "file": "",
    }
    assert list(tmp_path.iterdir()) == []


def test_additions_are_merged(tmp_path: Path) -> None:
    upgrade_record.run(
        tmp_path, {"state": "under way", "nodes": {"a": {"done": False, "previous": "x"}}}, new=True, check=False
    )
    done = upgrade_record.run(tmp_path, {"nodes": {"a": {"done": True}, "b": {}}}, new=False, check=False)
    assert done["changed"]
    assert done["record"]["nodes"] == {"a": {"done": True, "previous": "x"}, "b": {}}
    assert json.loads(Path(done["file"]).read_text()) == done["record"]
    again = upgrade_record.run(tmp_path, {"nodes": {"b": {}}}, new=False, check=False)
    assert not again["changed"]


def test_numbers_count_up_and_the_last_is_read(tmp_path: Path) -> None:
    for number in range(11):
        upgrade_record.run(tmp_path, {"number": number}, new=True, check=False)
    last = upgrade_record.run(tmp_path, {}, new=False, check=False)
    assert last["record"]["number"] == 10
    assert Path(last["file"]).parent.name == "0011"


def test_check_mode_foresees_and_writes_nothing(tmp_path: Path) -> None:
    foreseen = upgrade_record.run(tmp_path / "upgrade", {"state": "under way"}, new=True, check=True)
    assert foreseen["changed"]
    assert foreseen["record"]["state"] == "under way"
    assert list(tmp_path.iterdir()) == []


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0001").mkdir()
    (tmp_path / "0001/state.json").write_text('{"format_version": 2}')
    with pytest.raises(upgrade_record.RecordError, match="format version 2"):
        upgrade_record.run(tmp_path, {}, new=False, check=False)
