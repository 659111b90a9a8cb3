"""Copies of the repository, for builds from something else than what is tested."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def copy_repository(destination: Path) -> None:
    """Copy what is in the repository or would be committed to *destination*, which is made anew."""
    shutil.rmtree(destination, ignore_errors=True)
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in listing.rstrip("\0").split("\0"):
        if (REPOSITORY / name).is_file():  # not one that was deleted and is not committed
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, destination / name)
