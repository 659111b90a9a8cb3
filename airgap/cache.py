"""The builder's cache of files, by their SHA-256.

A hit is hashed again before it is used, or, where it is only copied, on the way: what is damaged never gets anywhere.
"""

from __future__ import annotations

import os
from pathlib import Path

from airgap.hashing import sha256_of_bytes, sha256_of_file


def default_cache() -> Path:
    """Return the cache below $XDG_CACHE_HOME, or ~/.cache where that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pag"


class Cache:
    """Files below ``<root>/sha256/``, and unfinished downloads below ``<root>/partial/``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        """Return where the file with that hash is, or would be."""
        return self.root / "sha256" / sha256[:2] / sha256

    def partial(self, sha256: str) -> Path:
        """Return where the file with that hash is written while it arrives."""
        return self.root / "partial" / sha256

    def lookup(self, sha256: str) -> Path | None:
        """Return the file with that hash if it is there and whole; a damaged one is removed."""
        path = self.path(sha256)
        try:
            if sha256_of_file(path) == sha256:
                return path
        except FileNotFoundError:
            return None
        path.unlink(missing_ok=True)
        return None

    def present(self, sha256: str, size: int | None) -> Path | None:
        """Return the file with that hash if it is there, without hashing it: for what is hashed while it is copied.

        One that has not *size* bytes, where that is known, is removed.
        """
        path = self.path(sha256)
        try:
            if size in (None, path.stat().st_size):
                return path
        except FileNotFoundError:
            return None
        path.unlink(missing_ok=True)
        return None

    def store(self, content: bytes) -> Path:
        """Put *content* into the cache and return its file."""
        sha256 = sha256_of_bytes(content)
        if (path := self.lookup(sha256)) is not None:
            return path
        # Another process may be storing the same: each writes a file of its own, and one of them stays.
        partial = self.partial(f"{sha256}.{os.getpid()}")
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        return self.adopt(partial, sha256)

    def adopt(self, partial: Path, sha256: str) -> Path:
        """Move the finished file *partial*, whose hash was checked, to its place and return that."""
        path = self.path(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        return partial.replace(path)
