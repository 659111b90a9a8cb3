"""What checks say into the scenario's log, at once and whatever becomes of them: seeds, figures, how far they are."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext


class _Log:
    uncaptured: Callable[[], AbstractContextManager[None]] = nullcontext


def write_with(uncaptured: Callable[[], AbstractContextManager[None]]) -> None:
    """Write from now on inside of *uncaptured*, where pytest does not keep the output for failures."""
    _Log.uncaptured = staticmethod(uncaptured)


def report(text: str) -> None:
    """Say something, with the time of day."""
    with _Log.uncaptured():
        print(f"\n  {time.strftime('%H:%M:%S')} {text}", flush=True)
