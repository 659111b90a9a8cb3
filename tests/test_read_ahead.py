from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from airgap.read_ahead import read_ahead


def test_yields_all_in_order() -> None:
    assert list(read_ahead(range(1000), depth=3)) == list(range(1000))


def test_takes_a_few_ahead_and_no_more() -> None:
    taken: list[int] = []
    ahead = threading.Event()

    def source() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            if number == 4:
                ahead.set()
            yield number

    items = read_ahead(source(), depth=4)
    assert next(items) == 0
    assert ahead.wait(10)
    items.close()
    assert len(taken) <= 6


def test_an_error_comes_after_what_was_before_it() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("two")

    items = read_ahead(source())
    assert next(items) == 1
    with pytest.raises(ValueError, match="two"):
        next(items)


def test_who_stops_early_stops_the_source() -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    threads = threading.active_count()
    items = read_ahead(read_ahead(source()))
    next(items)
    items.close()
    assert closed.wait(10)
    assert threading.active_count() == threads
