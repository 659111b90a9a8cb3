"""Which of two versions of a package is the newer one, by the rules of the package's own kind."""

from __future__ import annotations

from typing import Any

from debian.debian_support import Version as DebianVersion
from packaging.version import Version as PythonVersion


def is_newer(kind: str, old: str, new: str) -> bool | None:
    """Return whether *new* is newer than *old*; None where the versions are none of that *kind*, or equal in rank."""
    try:
        before, after = _version(kind, old), _version(kind, new)
    except Exception:  # each library has errors of its own for what is no version
        return None
    if before == after:
        return None
    return bool(before < after)


def _version(kind: str, text: str) -> Any:
    if kind == "deb":
        return DebianVersion(text)
    if kind == "conda":
        from rattler import Version as CondaVersion

        return CondaVersion(text)
    return PythonVersion(text)
