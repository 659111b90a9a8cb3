"""Ends answers that come too slowly: as long as anything comes at all, a client would wait for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

_LONGEST_PAUSE = 1.0


class Answer(Protocol):
    """A server's answer that a thread reads, as urllib3 has it."""

    def shutdown(self) -> None:
        """Let the read come to its end, with what has arrived."""


class Watch:
    """Looks after the answers that are read at the same time, from a thread that is there as long as there are any."""

    def __init__(self, longest: float) -> None:
        """Allow *longest* seconds for each block of an answer."""
        self._longest = longest
        self._lock = threading.Condition()
        self._begun: dict[Answer, float] = {}
        self._ended: set[Answer] = set()
        self._thread: threading.Thread | None = None

    @property
    def answers(self) -> int:
        """How many are read just now, and share the line."""
        return len(self._begun)

    def ended(self, answer: Answer) -> bool:
        """Return whether *answer*, which is still being watched, took too long."""
        return answer in self._ended

    @contextmanager
    def over(self, answer: Answer) -> Iterator[Callable[[], None]]:
        """Watch *answer* while the block runs; yield what to call whenever a block of it has come."""

        def came() -> None:
            self._begun[answer] = time.monotonic()

        with self._lock:
            came()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
        try:
            yield came
        finally:
            with self._lock:
                del self._begun[answer]
                self._ended.discard(answer)

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait(min(self._longest / 4, _LONGEST_PAUSE))
                if not self._begun:
                    self._thread = None
                    return
                limit = time.monotonic() - self._longest
                late = [answer for answer, begun in self._begun.items() if begun < limit]
                self._ended.update(late)
                for answer in late:
                    # It may have come to its end just now.
                    with suppress(OSError, RuntimeError, ValueError):
                        answer.shutdown()
