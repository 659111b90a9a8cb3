"""An archive of texts with an index of what is in it. Standard library only."""

from __future__ import annotations

import io
import os
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

# What of a longer text is kept: its end.
_LIMIT = 2_000_000


def flat(values: Any) -> list[str]:
    """Return all texts in *values*, however deep in lists and dictionaries."""
    if isinstance(values, str):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    return [text for value in values for text in flat(value)] if isinstance(values, list) else []


class Archive:
    """A new, private archive at a path; as a context manager it is complete at the end."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w:gz", compresslevel=6)  # noqa: SIM115 (closed in __exit__)
        self._time = time.time()
        self.files: dict[str, int] = {}
        """Bytes of what is in it, by path."""
        self.cut: list[str] = []
        """Paths of those that lack their beginning."""

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()
        self._file.close()

    def add(self, path: str, text: str) -> None:
        """Add a text under *path*."""
        content = text.encode("utf-8", "replace")
        if len(content) > _LIMIT:
            content = content[-_LIMIT:].partition(b"\n")[2]
            self.cut.append(path)
        entry = tarfile.TarInfo(path)
        entry.size, entry.mode, entry.mtime = len(content), 0o600, int(self._time)
        self._tar.addfile(entry, io.BytesIO(content))
        self.files[path] = len(content)
