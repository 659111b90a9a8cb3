"""What the operator wants carried of conda packages besides the environments'."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_ENVIRONMENT = "default"


@dataclass(frozen=True)
class CondaExtra:
    """Conda packages to carry that no environment of the bundle asks for: those of a lock, or a single one."""

    lock: Path | None = None
    environment: str = DEFAULT_ENVIRONMENT
    url: str = ""
    sha256: str = ""
