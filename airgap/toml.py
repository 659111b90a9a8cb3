"""Reads TOML: by Python's own reader, or by the package that it comes from where Python is older."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def read_toml(path: Path) -> dict[str, Any]:
    """Return what the file at *path* says; raise OSError, or ValueError for what is no TOML or no text."""
    text = path.read_text(encoding="utf-8")
    # Only now: most builds have nothing to read, and the readers compile their patterns when they are loaded.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    document: dict[str, Any] = tomllib.loads(text)
    return document
