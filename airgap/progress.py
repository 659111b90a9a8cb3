"""How far a build is: an object that is handed down and does nothing by default, so that the library never prints."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Takes what happens, and shows nothing."""

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Mark a part of the work that *text* names."""
        yield

    def note(self, text: str) -> None:
        """Tell something that the operator should know."""

    @contextmanager
    def transfer(self, files: int, size: int) -> Iterator[None]:
        """Mark the transfer of so many *files*, *size* bytes as far as known."""
        yield

    def received(self, size: int) -> None:
        """Count *size* bytes; called by any thread."""

    def finished_file(self) -> None:
        """Count one file; called by any thread."""


class LineProgress(Progress):
    """Writes plain lines, for logs."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to *stream*, standard error by default."""
        self._stream = stream or sys.stderr
        self._files = self._all_files = self._bytes = self._all_bytes = 0
        self._last = 0.0

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Write *text*, and the time it took when that is worth a line."""
        self.note(text)
        started = time.monotonic()
        yield
        if (seconds := time.monotonic() - started) >= 1:
            self.note(f"  {seconds:.1f} s")

    def note(self, text: str) -> None:
        """Write one line."""
        print(text, file=self._stream, flush=True)

    @contextmanager
    def transfer(self, files: int, size: int) -> Iterator[None]:
        """Write a line every few seconds."""
        self._files, self._all_files, self._bytes, self._all_bytes = 0, files, 0, size
        self._last = time.monotonic()
        yield

    def received(self, size: int) -> None:
        """Count bytes."""
        self._bytes += size
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            received = human_size(self._bytes) + (f" of {human_size(self._all_bytes)}" if self._all_bytes else "")
            self.note(f"  {self._files} of {self._all_files} files, {received}")

    def finished_file(self) -> None:
        """Count a file."""
        self._files += 1


class BarProgress(LineProgress):
    """Draws a bar on a terminal while files are transferred."""

    _drawn = False

    def note(self, text: str) -> None:
        """Write one line, above the bar while there is one."""
        if self._drawn:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            super().note(text)

    @contextmanager
    def transfer(self, files: int, size: int) -> Iterator[None]:
        """Draw a bar as long as the transfer takes."""
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("  {task.fields[files]} of {task.fields[all]} files"),
            BarColumn(),
            DownloadColumn(binary_units=False),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._files, self._all_files = 0, files
        with Bar(*columns, console=Console(file=self._stream), transient=True) as self._bar:
            self._drawn = True
            self._task = self._bar.add_task("", total=size or None, files=0, all=files)
            try:
                yield
            finally:
                self._drawn = False

    def received(self, size: int) -> None:
        """Move the bar."""
        self._bar.advance(self._task, size)

    def finished_file(self) -> None:
        """Count a file on the bar."""
        self._files += 1
        self._bar.update(self._task, files=self._files)


def human_size(size: float) -> str:
    """Return *size* bytes for reading, in decimal units: ``1.5 MB``."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
