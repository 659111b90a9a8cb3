"""The module managed_files with its action plugin, run by Ansible on this host."""

from __future__ import annotations

import grp
import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from plays import PLAYS, run

SECRET = "something-secret-indeed"
_OWNER = {"owner": pwd.getpwuid(os.geteuid()).pw_name, "group": grp.getgrgid(os.getegid()).gr_name}

pytestmark = PLAYS


def _play(directory: Path, *options: str, **task: Any) -> dict[str, Any]:
    """Run one task and return its result; with *options* such as ``--check``."""
    files = directory / "files"
    (files / "program/deep").mkdir(parents=True, exist_ok=True)
    (files / "program/main.py").write_text("print()\n")
    (files / "program/deep/data.bin").write_bytes(b"\xff\x00")
    (files / "program/__pycache__").mkdir(exist_ok=True)
    (files / "program/__pycache__/main.pyc").write_bytes(b"")
    (files / "one").write_text("one")
    (files / "two").write_text("two")
    (directory / "templates").mkdir(exist_ok=True)
    (directory / "templates/settings.j2").write_text("for {{ who }}\n")
    for kind in ("files", "directories"):
        task[kind] = [_OWNER | entry for entry in task.get(kind, [])]
    result = directory / "result.json"
    keep = {"copy": {"content": "{{ found | to_json }}", "dest": str(result)}, "check_mode": False, "no_log": True}
    tasks = [{"managed_files": task, "register": "found"}, keep]
    finished = run(directory, tasks, *options, who="everybody", secret=SECRET)
    if finished.returncode != 0:
        return {"failed": finished.stdout + finished.stderr}
    found = json.loads(result.read_text())
    assert isinstance(found, dict)
    return found | {"output": finished.stdout}


def test_all_is_brought_about_in_one_task_and_then_nothing_is_left_to_do(tmp_path: Path) -> None:
    there = tmp_path / "there"
    task: dict[str, Any] = {
        "absent": [str(there / "old"), str(there / "never")],
        "directories": [{"path": str(there / "a/b"), "mode": "0711"}],
        "files": [
            {"src": "program/", "dest": f"{there}/program/"},
            {"src": ["one", "two"], "dest": f"{there}/a/b/", "mode": "0755"},
            {"template": "settings.j2", "dest": f"{there}/new/settings"},
            {"content": "{{ secret }}\n", "dest": f"{there}/secret", "mode": "0600"},
        ],
    }
    (there / "old/deep").mkdir(parents=True)
    before = _play(tmp_path, "--check", **task)
    assert [path.name for path in there.iterdir()] == ["old"]
    found = _play(tmp_path, **task)
    assert found["changed"]
    assert before["paths"] == found["paths"]
    files = {path.relative_to(there).as_posix(): path for path in there.rglob("*") if path.is_file()}
    assert sorted(files) == [
        "a/b/one",
        "a/b/two",
        "new/settings",
        "program/deep/data.bin",
        "program/main.py",
        "secret",
    ]
    modes = {name: path.stat().st_mode & 0o777 for name, path in files.items()}
    assert (modes["a/b/one"], modes["program/main.py"], modes["secret"]) == (0o755, 0o644, 0o600)
    assert (there / "a/b").stat().st_mode & 0o777 == 0o711
    assert files["new/settings"].read_text() == "for everybody\n"
    assert files["program/deep/data.bin"].read_bytes() == b"\xff\x00"
    again = _play(tmp_path, **task)
    assert (again["changed"], again["paths"]) == (False, [])


def test_what_somebody_changed_is_put_right_and_shown(tmp_path: Path) -> None:
    kept, hidden = tmp_path / "kept", tmp_path / "hidden"
    task: dict[str, Any] = {
        "files": [
            {"content": "wanted\n", "dest": str(kept)},
            {"content": f"{SECRET}\n", "dest": str(hidden), "diff": False},
        ]
    }
    _play(tmp_path, **task)
    kept.write_text("by hand\n")
    hidden.chmod(0o666)
    found = _play(tmp_path, "--diff", "-vvv", **task)
    assert found["paths"] == [str(kept), str(hidden)]
    assert "-by hand" in found["output"]
    assert "+wanted" in found["output"]
    assert SECRET not in found["output"]
    assert (kept.read_text(), hidden.stat().st_mode & 0o777) == ("wanted\n", 0o644)


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("of somebody else\n")
    link.symlink_to(target)
    assert _play(tmp_path, files=[{"content": "ours\n", "dest": str(link)}])["changed"]
    assert not link.is_symlink()
    assert target.read_text() == "of somebody else\n"


def test_a_directory_that_a_site_has_put_elsewhere_stays_there(tmp_path: Path) -> None:
    elsewhere, link = tmp_path / "elsewhere", tmp_path / "link"
    elsewhere.mkdir(mode=0o700)
    link.symlink_to(elsewhere)
    task: dict[str, Any] = {"directories": [{"path": str(link), "mode": "0711"}]}
    assert _play(tmp_path, **task)["changed"]
    assert (link.is_symlink(), elsewhere.stat().st_mode & 0o777) == (True, 0o711)
    assert not _play(tmp_path, **task)["changed"]


def test_nothing_is_changed_when_something_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "obstacle").write_text("")
    task: dict[str, Any] = {
        "absent": [str(tmp_path / "files/one")],
        "directories": [{"path": str(tmp_path / "new")}, {"path": str(tmp_path / "obstacle")}],
    }
    failed = " ".join(_play(tmp_path, **task)["failed"].split())
    assert "obstacle is there and is no directory: move it away." in failed
    assert ((tmp_path / "new").exists(), (tmp_path / "files/one").exists()) == (False, True)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"content": "x", "dest": "DIRECTORY"}, "is there and is no file: move it away"),
        ({"content": "x", "src": "one", "dest": "x"}, "needs one of content, src, template"),
        ({"content": "x"}, "dest is missing"),
        ({"content": "x", "dest": "x", "onwer": "root"}, "nobody knows onwer in x"),
        ({"content": {"a": 1}, "dest": "x"}, "content is"),
        ({"src": "no-such-file", "dest": "x"}, "no-such-file"),
        ({"template": "no-such.j2", "dest": "x"}, "no-such.j2"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path: Path, entry: dict[str, Any], said: str) -> None:
    entry = entry | ({"dest": str(tmp_path)} if entry.get("dest") == "DIRECTORY" else {})
    assert said in " ".join(_play(tmp_path, files=[entry])["failed"].split())
