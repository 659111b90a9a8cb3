"""What keeps a worker from taking runs: the worker itself and Ansible's modules read it. Standard library only."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

HOLD_SECONDS = 60.0
"""A hold that has not been renewed for so long counts no more: whoever set it was killed."""


@dataclass(frozen=True)
class Holds:
    """The files by which others ask a worker to take no runs."""

    drained: Path
    """Stays until it is taken away: the node is drained."""
    hold: Path
    """Renewed by touching it, while a playbook waits for the runs to end before it restarts the worker."""

    @classmethod
    def of(cls, kind: str, root: Path = Path("/")) -> Holds:
        """Return those of the worker called *kind* (``cpu``, ``gpu``)."""
        return cls(root / f"etc/prefect/worker-{kind}.drained", root / f"run/prefect-worker-{kind}.hold")

    def reason(self) -> str | None:
        """Return why the worker takes no runs, None when it may take them."""
        if self.drained.exists():
            return "it is drained"
        try:
            age = time.time() - self.hold.stat().st_mtime
        except FileNotFoundError:
            return None
        return "it is about to be restarted" if age < HOLD_SECONDS else None
