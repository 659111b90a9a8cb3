from __future__ import annotations

import io

import pytest

from airgap.progress import BarProgress, LineProgress, human_size


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1_500, "1.5 kB"), (149_000_000, "149.0 MB"), (2_340_000_000, "2.34 GB")],
)
def test_human_size(size: int, text: str) -> None:
    assert human_size(size) == text


def test_lines_say_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    progress = LineProgress(stream)
    monkeypatch.setattr("airgap.progress._SECONDS_BETWEEN_LINES", 0)
    with progress.step("Fetching"), progress.transfer(2, 3_000):
        progress.received(1_000)
        progress.finished_file()
        progress.received(2_000)
    assert stream.getvalue() == "Fetching\n  0 of 2 files, 1.0 kB of 3.0 kB\n  1 of 2 files, 3.0 kB of 3.0 kB\n"


def test_lines_are_few() -> None:
    stream = io.StringIO()
    progress = LineProgress(stream)
    with progress.transfer(1, 0):
        for _ in range(1000):
            progress.received(1)
    assert stream.getvalue() == ""


def test_a_bar_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    progress = BarProgress(stream)
    with progress.transfer(2, 3_000):
        progress.received(1_000)
        progress.finished_file()
    assert "1 of 2 files" in stream.getvalue()
