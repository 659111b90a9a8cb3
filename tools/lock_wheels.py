#!/usr/bin/env python3
"""Lock the wheels: every ``requirements.in`` of the repository to its ``.txt``, with all hashes and without addresses.

Needs uv and a Python package index. Run it after a change of an ``.in`` file, or with ``--upgrade`` for newer versions;
then run the tests: a lock that resolves is not yet one that works.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent

# The newest releases of some of Prefect's dependencies break it; requirements/prefect.in has the details.
_PREFECT_DATE = "2026-10-08T00:00:00Z"
_OLDEST_PYTHON = "3.10"


@dataclass(frozen=True)
class Lock:
    """One lock to write: the ``.in`` file and how it is resolved."""

    source: Path
    python: str = _OLDEST_PYTHON
    """The oldest Python that the lock is for."""
    exclude_newer: str | None = None
    constraint: Path | None = None
    dependencies: bool = True

    @property
    def output(self) -> Path:
        """The lock's file."""
        return self.source.with_suffix(".txt")

    def arguments(self, upgrade: bool) -> list[str]:
        """Return uv's arguments that write this lock."""
        # fmt: off
        return [
            "pip", "compile",
            "--quiet",
            "--no-config",
            "--universal",
            "--generate-hashes",
            "--python-version", self.python,
            # No addresses and no paths of this machine: the lock is the same wherever it was made.
            "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links",
            *(["--upgrade"] if upgrade else []),
            *([] if self.dependencies else ["--no-deps"]),
            *(["--exclude-newer", self.exclude_newer] if self.exclude_newer else []),
            *(["--constraint", str(self.constraint)] if self.constraint else []),
            "--output-file", str(self.output),
            str(self.source),
        ]
        # fmt: on


def locks(root: Path) -> list[Lock]:
    """Return the repository's locks, in the order in which they depend on each other."""
    requirements = root / "requirements"
    prefect = requirements / "prefect.in"
    return [
        Lock(prefect, exclude_newer=_PREFECT_DATE),
        Lock(requirements / "controller.in"),
        # One release serves every controller, so the Python it asks for does not matter.
        Lock(requirements / "collections.in", python="3.11", dependencies=False),
        Lock(requirements / "toolkit.in"),
        Lock(requirements / "builder.in"),
        # The tests' tools are for Debian 12 and later.
        Lock(requirements / "dev.in", python="3.11"),
        Lock(requirements / "fuzz.in", python="3.11"),
        *(
            Lock(source, exclude_newer=_PREFECT_DATE, constraint=prefect.with_suffix(".txt"))
            for source in [*sorted(root.glob("flows/*/requirements.in")), root / "benches/gpu/requirements.in"]
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the locks and return the exit status."""
    parser = argparse.ArgumentParser(description="Lock the wheels of requirements/ and flows/ with uv.")
    parser.add_argument("names", nargs="*", metavar="FILE", help="only these .in files (default: all)")
    parser.add_argument("--upgrade", action="store_true", help="take newer versions where the .in files allow them")
    parser.add_argument("--uv", default="uv", help="the uv to run")
    options = parser.parse_args(arguments)
    uv = shutil.which(options.uv)
    if uv is None:
        print(f"error: {options.uv} was not found: install uv or name it with --uv.", file=sys.stderr)
        return 1
    wanted = {Path(name).resolve() for name in options.names}
    for lock in locks(_ROOT):
        if not lock.source.exists() or (wanted and lock.source not in wanted):
            continue
        print(f"{lock.output.relative_to(_ROOT)}", flush=True)
        status = subprocess.run([uv, *lock.arguments(options.upgrade)], cwd=_ROOT).returncode
        if status:
            print(f"error: uv could not resolve {lock.source.relative_to(_ROOT)}.", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
