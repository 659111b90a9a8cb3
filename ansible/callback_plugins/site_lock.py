"""Ansible callback plugin: one playbook at a time changes the site.

The lock is the kernel's (flock(2)), held by the process of ``ansible-playbook`` itself: when that ends, in whatever
way, the lock is free. It is taken on the directory of the bundle, so there is no file that somebody could delete, and
no need for the right to write.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: site_lock
type: aggregate
short_description: Let one playbook at a time change the site
description:
  - Takes an exclusive lock on the controller's directory of the bundle when a playbook starts, and keeps it until
    C(ansible-playbook) ends. Where another one has it, says in one sentence who, and ends before any task.
  - Playbooks that only read do not lock, and neither does check mode.
options:
  root:
    description: Where the bundle is installed on the controller. Where it is not there, nothing is locked.
    type: str
    default: /opt/pag
    env:
      - name: PAG_ROOT
  wait:
    description: Seconds to wait for the playbook that has the lock.
    type: float
    default: 0
    env:
      - name: PAG_LOCK_WAIT
requirements:
  - Linux
author: pag
"""

import fcntl
import itertools
import os
import pwd
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.plugins.callback import CallbackBase

from ansible import context

if TYPE_CHECKING:
    from collections.abc import Sequence

READ_ONLY = (
    "audit.yml",
    "flow-list.yml",
    "have.yml",
    "preflight.yml",
    "ssh-hosts.yml",
    "status.yml",
    "support-bundle.yml",
)
"""Playbooks that change nothing on the site."""

_PAUSE_SECONDS = 0.5
# Options of ansible-playbook whose value may look like a playbook.
_FILE_OPTIONS = ("-i", "--inventory", "--inventory-file", "-e", "--extra-vars", "--vault-password-file", "--vault-id")


class SiteLockError(Exception):
    """The site cannot be locked; the message is one sentence for the operator."""


class SiteLock:
    """The lock of the site below one directory."""

    def __init__(self, root: Path, proc: Path = Path("/proc")) -> None:
        """Take the directory of the bundle, and where the kernel tells about processes."""
        self._root = root
        self._proc = proc
        self._descriptor: int | None = None

    def take(self, wait: float = 0) -> None:
        """Take the lock, at once or within *wait* seconds; without a bundle there is nothing to lock.

        Raises SiteLockError when another process keeps it.
        """
        if self._descriptor is not None or not self._root.is_dir():
            return
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        deadline = time.monotonic() + wait
        while not self._try(descriptor):
            if time.monotonic() >= deadline:
                holder = self._describe_holder(os.fstat(descriptor).st_ino)
                os.close(descriptor)
                raise SiteLockError(
                    f"{holder}: wait until that has ended (PAG_LOCK_WAIT=600 waits 600 seconds); nothing was done."
                )
            time.sleep(_PAUSE_SECONDS)
        self._descriptor = descriptor
        # All that inherit the descriptor have the lock: Ansible's forks would keep it when this process is killed.
        os.register_at_fork(after_in_child=self._forget)

    def _try(self, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise SiteLockError(
                f"{self._root} cannot be locked ({error.strerror}): mend that; nothing was done."
            ) from None
        return True

    def _forget(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _describe_holder(self, inode: int) -> str:
        """Return who has the lock, as the beginning of a sentence."""
        for line in (self._proc / "locks").read_text(encoding="ascii").splitlines():
            fields = line.split()
            # A line of proc_locks(5); those with an arrow are waiting.
            if fields[1] == "FLOCK" and fields[3] == "WRITE" and fields[5].endswith(f":{inode}"):
                return self._describe_process(int(fields[4]))
        return "another playbook changes this site"

    def _describe_process(self, pid: int) -> str:
        process = self._proc / str(pid)
        try:
            user = _user_name(process.stat().st_uid)
            arguments = (process / "cmdline").read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0")
            # After the program's name, which may have blanks: the 22nd field of proc_pid_stat(5), in clock ticks.
            ticks = int((process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
            boot = next(
                int(line.split()[1])
                for line in (self._proc / "stat").read_text(encoding="ascii").splitlines()
                if line.startswith("btime ")
            )
        except OSError:
            # It has just ended, or belongs to a user whose processes are hidden from this one.
            return f"another playbook changes this site (pid {pid})"
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(boot + ticks / os.sysconf("SC_CLK_TCK")))
        return f"{user} runs {playbooks_of(arguments)} on this site since {since} (pid {pid})"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the user {uid}"


def playbooks_of(arguments: Sequence[str]) -> str:
    """Return the names of the playbooks in a command line; no other argument, since those may have secrets."""
    names = [
        Path(argument).name
        for before, argument in itertools.pairwise(arguments)
        if argument.endswith((".yml", ".yaml")) and argument[0] not in "-@" and before not in _FILE_OPTIONS
    ]
    return " ".join(names) or "a playbook"


def changes_the_site(playbook: str, *, check: bool) -> bool:
    """Return whether the playbook with this path must be alone."""
    return not check and Path(playbook).name not in READ_ONLY


class CallbackModule(CallbackBase):
    """Takes the lock when a playbook starts."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "site_lock"
    # It lies beside the playbooks and counts wherever they are called from, with or without their ansible.cfg.
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self) -> None:
        super().__init__()
        self._lock: SiteLock | None = None

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Take the lock, or end."""
        if not changes_the_site(playbook._file_name, check=context.CLIARGS["check"]):
            return
        # Kept for the life of the process: several playbooks may be on one command line.
        self._lock = self._lock or SiteLock(Path(self.get_option("root")))
        try:
            self._lock.take(self.get_option("wait"))
        except SiteLockError as error:
            self._display.error(str(error), wrap_text=False)
            # Ansible takes an exception of a callback for a warning, but not this one.
            sys.exit(1)
