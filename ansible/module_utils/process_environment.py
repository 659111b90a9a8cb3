"""Which environment a process runs in. Standard library only."""

from __future__ import annotations

from pathlib import Path

_PATH = b"PATH="


def environment_of(process: Path, environments: Path) -> str:
    """Return the name of the environment below *environments* that a process, by its directory in /proc, runs in.

    Empty for none: an environment's ``run`` puts its programs first in the process' PATH. Needs root's rights.
    """
    try:
        variables = (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    for variable in variables:
        if variable.startswith(_PATH):
            for entry in variable[len(_PATH) :].decode(errors="replace").split(":"):
                if Path(entry).is_relative_to(environments) and Path(entry) != environments:
                    return Path(entry).relative_to(environments).parts[0]
    return ""
