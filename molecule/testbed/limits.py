"""The one setting of the host that several machines together need more of."""

from __future__ import annotations

from pathlib import Path

from places import STATE

_SETTING = Path("/proc/sys/fs/inotify/max_user_instances")

# Each systemd takes about six, all machines' root count as one user, and the kernel's default is 128.
_WANTED = 1024


def _before() -> Path:
    return STATE / ".inotify-instances-before"


def make_room() -> None:
    """Let root have enough inotify instances, and note down what the limit was."""
    current = int(_SETTING.read_text())
    if current < _WANTED:
        _before().write_text(f"{current}\n")
        _SETTING.write_text(f"{_WANTED}\n")


def give_back() -> None:
    """Set the limit back when the last cluster is gone; a limit that somebody else has set meanwhile stays."""
    clusters = [entry for entry in STATE.iterdir() if entry.is_dir()]
    if clusters or not _before().exists():
        return
    if int(_SETTING.read_text()) == _WANTED:
        _SETTING.write_text(_before().read_text())
    _before().unlink()
