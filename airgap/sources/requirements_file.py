"""Hash-locked requirements files: every line pinned, every accepted file's SHA-256, no addresses.

The format is pip's (as ``uv pip compile --generate-hashes`` writes it); of its options only ``--hash`` is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from airgap.errors import LockError

_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})$")


@dataclass(frozen=True)
class LockedRequirement:
    """One locked package."""

    name: str
    """In its normalised form."""
    version: str
    hashes: frozenset[str]
    """SHA-256 of the files that are accepted."""


def read_requirements(path: Path, markers: Mapping[str, str]) -> list[LockedRequirement]:
    """Return what the file at *path* locks where the environment *markers* (PEP 508) hold.

    Raises LockError naming the line when the file is no hash-locked requirements file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LockError(f"{path} cannot be read ({error}): name a flow directory with a lock in it.") from error
    locked: dict[str, LockedRequirement] = {}
    for number, line in _logical_lines(text):
        requirement, hashes = _parse_line(line, f"{path}:{number}")
        if requirement.marker is not None and not requirement.marker.evaluate(dict(markers)):
            continue
        (specifier,) = requirement.specifier
        name = str(canonicalize_name(requirement.name))
        if name in locked:
            raise LockError(f"{path}:{number}: {name} is locked twice for the same system: lock it again.")
        locked[name] = LockedRequirement(name, specifier.version, hashes)
    return list(locked.values())


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield lines with their continuations joined, without comments, and the number that each starts at."""
    start, collected = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        start = start or number
        stripped = re.sub(r"(^|\s)#.*$", "", line).strip()
        if stripped.endswith("\\"):
            collected += stripped[:-1] + " "
            continue
        if joined := (collected + stripped).strip():
            yield start, joined
        start, collected = 0, ""
    if collected.strip():
        yield start, collected.strip()


def _parse_line(line: str, where: str) -> tuple[Requirement, frozenset[str]]:
    again = "lock it with `uv pip compile --universal --generate-hashes`."
    text, *options = re.split(r"\s+(?=--)", line)
    if text.startswith("-"):
        raise LockError(f"{where}: options such as {text.split()[0]} are not taken in a lock: {again}")
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise LockError(f"{where}: {text.split(';')[0].strip()!r} is no requirement: {again}") from error
    if requirement.url is not None:
        raise LockError(f"{where}: {requirement.name} is locked to an address, only releases can be carried: {again}")
    pins = [pin for pin in requirement.specifier if pin.operator == "==" and not pin.version.endswith(".*")]
    if len(pins) != 1 or len(requirement.specifier) != 1:
        raise LockError(f"{where}: {requirement.name} is not pinned to one version (==): {again}")
    matches = [_HASH.match(option.strip()) for option in options]
    hashes = frozenset(match[1] for match in matches if match)
    if not hashes or not all(matches):
        raise LockError(f"{where}: {requirement.name} has no sha256 hashes, or other options: {again}")
    return requirement, hashes
