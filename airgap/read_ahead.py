"""Runs an iterator in a thread of its own, a few items ahead of the one who takes them.

Hashing, compressing, reading and writing large blocks all let other threads run, so steps that are chained this way
use a core each.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

_T = TypeVar("_T")
_DEPTH = 16


class _End:
    """Comes after the last item."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def read_ahead(items: Iterable[_T], depth: int = _DEPTH) -> Generator[_T, None, None]:
    """Yield *items*, which a thread takes from their source up to *depth* items earlier.

    An exception of the source is raised here, after the items before it. When the caller stops early, the source stops
    after the item that it is at.
    """
    taken: queue.Queue[_T | _End] = queue.Queue()
    room = threading.Semaphore(depth)
    stopped = threading.Event()

    def take() -> None:
        try:
            for item in items:
                taken.put(item)
                room.acquire()
                if stopped.is_set():
                    return
            taken.put(_End(None))
        except BaseException as error:  # raised again where the items go
            taken.put(_End(error))
        finally:
            if isinstance(items, Generator):
                items.close()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    try:
        while not isinstance(item := taken.get(), _End):
            room.release()
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        room.release()
        thread.join()
