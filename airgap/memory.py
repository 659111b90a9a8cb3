"""What the builder found out and would find out again: answers in the cache, by a digest of all that they rest on.

Nothing is lost with it. What cannot be read, or has another form than expected, counts as not remembered.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

_MOST_FILES = 16


def digest_of(*parts: str | bytes) -> str:
    """Return a SHA-256 over *parts*, each kept apart from the next."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(b"%d:" % len(content))
        digest.update(content)
    return digest.hexdigest()


class Memory:
    """Answers of one *kind* in the cache *root*, the latest few of them."""

    def __init__(self, root: Path, kind: str) -> None:
        self._directory = root / "remembered" / kind

    def recall(self, key: str) -> Any:
        """Return what is remembered under *key*, or None."""
        try:
            return json.loads(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def remember(self, key: str, answer: Any) -> None:
        """Remember *answer*, which JSON can hold, under *key*; a cache that takes nothing is no error."""
        path = self._path(key)
        # Others may be writing the same: each has a file of its own, and one of them stays.
        temporary = path.with_name(f".{key}.{os.getpid()}.{threading.get_ident()}")
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._directory.chmod(0o700)
            temporary.write_text(json.dumps(answer), encoding="utf-8")
            temporary.replace(path)
            for old in sorted(self._directory.glob("*.json"), key=lambda file: -file.stat().st_mtime)[_MOST_FILES:]:
                old.unlink(missing_ok=True)
        except OSError:
            temporary.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}.json"
