"""The command ``pag``: where it finds the playbooks, what it lists, what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from airgap import pag_command
from airgap.pag_command import CommandError, command, directory, main, playbooks


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Playbooks, an inventory, and an ansible-playbook that does what the test wants."""
    found = tmp_path / "ansible"
    found.mkdir()
    (found / "status.yml").write_text("---\n# Say how it is: command\n# More.\n- name: x\n  hosts: all\n")
    (found / "main.yml").write_text("---\n# All of it. Secrets come from elsewhere.\n- hosts: all\n")
    (found / "secrets.yml").write_text("# no playbook\nhosts: x\n")
    (found / "inventory.yml").write_text("all:\n  hosts: {a: {}}\n")
    return found


def _ansible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "bin/ansible-playbook"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport json, os, sys\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_playbooks_are_found_where_one_is_then_by_name_then_by_record(site: Path, tmp_path: Path) -> None:
    other, record = tmp_path / "other", tmp_path / "record"
    other.mkdir()
    record.symlink_to(site)
    (other / "status.yml").write_text("")
    assert directory(site, str(other), record) == site
    assert directory(tmp_path, str(other), record) == other
    assert directory(tmp_path, None, record) == site
    with pytest.raises(CommandError, match="PAG_ANSIBLE is /nowhere"):
        directory(tmp_path, "/nowhere", record)
    with pytest.raises(CommandError, match="There are no playbooks"):
        directory(tmp_path, None, tmp_path / "gone")


def test_playbooks_are_listed_with_their_first_lines(site: Path) -> None:
    assert playbooks(site) == {"main": "All of it", "status": "Say how it is"}


def test_every_playbook_of_this_repository_says_what_it_is(repository: Path) -> None:
    listed = playbooks(repository / "ansible")
    assert {"main", "status", "support-bundle", "audit"} <= set(listed)
    assert all(listed.values())


def test_commands(site: Path) -> None:
    assert command(site, "main", ["--check"]) == ["ansible-playbook", "-i", "inventory.yml", "main.yml", "--check"]
    assert command(site, "main", ["-i", "x"]) == ["ansible-playbook", "main.yml", "-i", "x"]
    with pytest.raises(CommandError, match="has no playbook nothing"):
        command(site, "nothing", [])
    (site / "inventory.yml").unlink()
    with pytest.raises(CommandError, match=r"has no inventory\.yml"):
        command(site, "main", [])


WRITE = """
file = json.loads(sys.argv[sys.argv.index("-e") + 1])["status_file"]
assert os.stat(file).st_mode & 0o077 == 0
json.dump({"status": {"well": %s, "argv": sys.argv[1:]}, "screen": "the screen\\n"}, open(file, "w"))
"""


@pytest.mark.parametrize(("well", "code"), [("True", 0), ("False", 1)])
def test_status_prints_the_screen_alone(
    site: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    well: str,
    code: int,
) -> None:
    _ansible(tmp_path, monkeypatch, "print('PLAY')" + WRITE % well)
    monkeypatch.chdir(site)
    assert main(["status"]) == code
    assert capsys.readouterr().out == "the screen\n"


@pytest.mark.parametrize("option", [["-o", "json"], ["-ojson"], ["--output=json"], ["--output", "json"]])
def test_status_for_machines(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    _ansible(tmp_path, monkeypatch, WRITE % "True")
    monkeypatch.chdir(site)
    assert main(["status", *option, "--limit", "a"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["argv"][:5] == ["-i", "inventory.yml", "status.yml", "--limit", "a"]


def test_status_that_cannot_find_out(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _ansible(tmp_path, monkeypatch, "print('why it failed'); sys.exit(4)")
    monkeypatch.chdir(site)
    assert main(["status"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "why it failed" in said.err
    assert main(["status", "-o", "xml"]) == 2
    assert main(["nothing"]) == 2


def test_the_file_runs_alone_from_anywhere(site: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pag"
    copy.write_bytes(Path(pag_command.__file__).read_bytes())
    finished = subprocess.run(
        ["python3", "-IB", copy, "--help"],
        cwd="/",
        env={"PATH": os.environ["PATH"], "PAG_ANSIBLE": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage: pag status" in finished.stdout
    assert "Say how it is" in finished.stdout
