"""A checkout whose server, workers and flows have an older Prefect: what a site has before it upgrades."""

from __future__ import annotations

import re
from pathlib import Path

from checkouts import copy_repository

_LOCK = Path(__file__).resolve().parent / "older/requirements.txt"
# One package of a lock: its version, perhaps a marker, and the lines of its hashes.
_ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==\S.*(?:\n    .*)*\n?", re.MULTILINE)


def make(directory: Path) -> Path:
    """Make the checkout below *directory* and return where it is.

    Flows are locked with the base environment's versions, and with what they have beside it in this repository.
    """
    copy = directory / "older-checkout"
    copy_repository(copy)
    base = copy / "requirements/prefect.txt"
    own_names = set(_entries(base))
    older = _LOCK.read_text(encoding="utf-8")
    base.write_text(older, encoding="utf-8")
    for lock in copy.glob("flows/*/requirements.txt"):
        beside = [entry for name, entry in _entries(lock).items() if name not in own_names]
        lock.write_text("".join([older, *beside]), encoding="utf-8")
    return copy


def _entries(lock: Path) -> dict[str, str]:
    return {match["name"]: match[0] for match in _ENTRY.finditer(lock.read_text(encoding="utf-8"))}
