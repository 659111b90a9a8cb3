"""The lock of the site: who holds it, for how long, and which playbooks need it."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ansible.plugins.callback")
ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"
_SPEC = importlib.util.spec_from_file_location("site_lock", ANSIBLE / "callback_plugins" / "site_lock.py")
assert _SPEC
assert _SPEC.loader
site_lock = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(site_lock)

HOLD = """
import fcntl, os, sys
descriptor = os.open(sys.argv[-1], os.O_RDONLY)
fcntl.flock(descriptor, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock of tmp_path, with a command line like that of ansible-playbook."""
    arguments = ["ansible-playbook", "-i", "inventory.yml", "main.yml", "-e", "password=secret", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def _is_free(root: Path) -> bool:
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def test_who_is_second_is_told_who_is_first(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(site_lock.SiteLockError) as refused:
        site_lock.SiteLock(tmp_path).take()
    message = str(refused.value)
    today = time.strftime("%Y-%m-%d ")
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    assert message.startswith(f"{user} runs main.yml on this site since {today}")
    assert f"(pid {holder.pid})" in message
    assert "secret" not in message


def test_waiting_ends_when_the_first_one_does(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    site_lock.SiteLock(tmp_path).take(wait=10)


def test_a_fork_does_not_keep_the_lock(tmp_path: Path) -> None:
    """Ansible's forks outlive a main process that is killed."""
    code = (
        f"import sys, os, time; sys.path.insert(0, {str(ANSIBLE / 'callback_plugins')!r}); import site_lock, pathlib\n"
        f"site_lock.SiteLock(pathlib.Path({str(tmp_path)!r})).take()\n"
        "child = os.fork()\n"
        "print(child, flush=True) if child else None\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        assert not _is_free(tmp_path)
        process.kill()
        process.wait()
        try:
            # On a busy machine, the fork may not have come to give its copy of the lock away.
            deadline = time.monotonic() + 10
            while not _is_free(tmp_path) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert Path(f"/proc/{child}").exists()
            assert _is_free(tmp_path)
        finally:
            os.kill(child, 9)


def test_without_a_bundle_there_is_nothing_to_lock(tmp_path: Path) -> None:
    site_lock.SiteLock(tmp_path / "missing").take()


@pytest.mark.parametrize(
    ("playbook", "check", "expected"),
    [
        ("main.yml", False, True),
        ("main.yml", True, False),
        ("/home/operator/bundle/ansible/uninstall.yml", False, True),
        ("status.yml", False, False),
        ("ansible/preflight.yml", False, False),
    ],
)
def test_which_playbooks_lock(playbook: str, check: bool, expected: bool) -> None:
    assert site_lock.changes_the_site(playbook, check=check) is expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["python", "ansible-playbook", "-i", "inventory.yml", "main.yml", "--tags", "x"], "main.yml"),
        (["ansible-playbook", "-e", "@more.yml", "a.yml", "dir/b.yml", "--inventory=c.yml"], "a.yml b.yml"),
        (["ansible-playbook"], "a playbook"),
    ],
)
def test_only_playbooks_are_named(arguments: list[str], expected: str) -> None:
    assert site_lock.playbooks_of(arguments) == expected


@pytest.mark.process
@pytest.mark.skipif(shutil.which("ansible-playbook") is None, reason="needs ansible-playbook")
@pytest.mark.usefixtures("holder")
@pytest.mark.parametrize(
    ("name", "options", "refused"),
    [("change.yml", [], True), ("change.yml", ["--check"], False), ("status.yml", [], False)],
)
def test_a_refused_playbook_does_nothing(tmp_path: Path, name: str, options: list[str], refused: bool) -> None:
    """An exception in a callback is only a warning for Ansible: this must end it."""
    site = tmp_path / "playbooks"
    site.mkdir()
    shutil.copytree(ANSIBLE / "callback_plugins", site / "callback_plugins")
    (site / name).write_text(
        "- hosts: localhost\n  gather_facts: false\n  tasks:\n    - ansible.builtin.debug: {msg: something was done}\n"
    )
    environment = os.environ | {"PAG_ROOT": str(tmp_path), "ANSIBLE_HOME": str(tmp_path / "home")}
    completed = subprocess.run(
        ["ansible-playbook", str(site / name), *options], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert (completed.returncode != 0) is refused, completed.stdout + completed.stderr
    assert ("something was done" in completed.stdout) is not refused
    assert ("runs main.yml on this site" in completed.stderr) is refused
    assert "Traceback" not in completed.stderr
