"""SHA-256 of files, read in blocks."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BLOCK_BYTES = 1024 * 1024


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of the file at *path* as 64 lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_bytes(content: bytes) -> str:
    """Return the SHA-256 of *content* as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
