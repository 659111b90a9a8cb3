"""How commands tell what they do."""

from __future__ import annotations

import sys

from airgap.progress import BarProgress, LineProgress, Progress


def make_progress(quiet: bool) -> Progress:
    """Return progress for the terminal or the log that standard error is."""
    if quiet:
        return Progress()
    return BarProgress() if sys.stderr.isatty() else LineProgress()


def say(quiet: bool, text: str) -> None:
    """Print *text* at once, unless only errors are wanted."""
    if not quiet:
        print(text, flush=True)
