"""The runs that a worker has, as files: they outlive the worker, and others can count them.

``runs/<flow run's id>.json`` is a run under way, ``lost/<flow run's id>.json`` one whose end is not yet reported. The
name of a file is all that is needed of it: after a power failure it may be empty. The worker writes them, Ansible's
modules read them. ``ends/<flow run's id>`` says in words why a run was refused or ended. Standard library only.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """What is recorded of a run."""

    id: str
    """The flow run's."""
    name: str = ""
    pid: int | None = None
    """Of the run's process; None while it has not been started."""
    since: float = 0.0
    """When the worker took the run, in seconds since the epoch."""

    @property
    def alive(self) -> bool:
        """Whether the run's process lives, or is yet to be started."""
        return self.pid is None or Path(f"/proc/{self.pid}").exists()


class Record:
    """The files in a worker's state directory."""

    def __init__(self, directory: Path) -> None:
        self._runs = directory / "runs"
        self._lost = directory / "lost"
        self._ends = directory / "ends"

    @classmethod
    def of(cls, kind: str, root: Path = Path("/")) -> Record:
        """Return that of the worker called *kind* (``cpu``, ``gpu``)."""
        return cls(root / f"var/lib/prefect-worker-{kind}")

    def open(self) -> None:
        """Make the directories, and keep all runs that an earlier worker left, whose processes were killed with it."""
        for path in (self._runs, self._lost, self._ends):
            path.mkdir(exist_ok=True)
        for entry in self.unsettled():
            self.lose(entry.id)

    def probe(self) -> None:
        """Raise OSError when nothing can be recorded now, as on a full disk."""
        probe = self._runs / ".probe"
        probe.write_text("a record", encoding="utf-8")
        probe.unlink()

    def begin(self, run: str, name: str) -> None:
        """Record that the worker takes a run."""
        self._write(Entry(run, name, since=time.time()))

    def started(self, run: str, pid: int) -> None:
        """Record the process of a run that was begun."""
        before = _read(self._runs / f"{run}.json")
        self._write(Entry(run, before.name, pid, before.since or time.time()))

    def end(self, run: str) -> None:
        """Forget a run that was under way, and whose end the server knows."""
        (self._runs / f"{run}.json").unlink(missing_ok=True)

    def reported(self, run: str) -> None:
        """Forget a run that was lost, and whose end the server knows."""
        (self._lost / f"{run}.json").unlink(missing_ok=True)

    def take_end(self, run: str) -> str | None:
        """Return why a run was refused or ended, where what started it said so, and forget it."""
        try:
            reason = (self._ends / run).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        (self._ends / run).unlink()
        return reason

    def lose(self, run: str) -> None:
        """Keep a run that is no longer under way until its end can be reported."""
        source = self._runs / f"{run}.json"
        if source.exists():
            source.replace(self._lost / source.name)

    def under_way(self) -> list[Entry]:
        """Return the runs that are under way.

        One whose process has ended is not, though Prefect waits for programs that it left in the background.
        """
        return [entry for entry in self.unsettled() if entry.alive]

    def unsettled(self) -> list[Entry]:
        """Return the runs that are under way, and those of which Prefect has not seen the end."""
        return _entries(self._runs)

    def lost(self) -> list[Entry]:
        """Return the runs whose end is still to be reported."""
        return _entries(self._lost)

    def _write(self, entry: Entry) -> None:
        # Whoever reads meanwhile sees the old or the new content.
        new = self._runs / f".{entry.id}"
        new.write_text(json.dumps(asdict(entry)), encoding="utf-8")
        new.replace(self._runs / f"{entry.id}.json")


def _entries(directory: Path) -> list[Entry]:
    return [_read(file) for file in sorted(directory.glob("*.json"))]


def _read(file: Path) -> Entry:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Entry(file.stem, str(content["name"]), content["pid"], float(content["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Entry(file.stem)
