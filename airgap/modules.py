"""Which of the package's own modules others of them need, read from their sources."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping


def needed_modules(entries: Iterable[str], sources: Mapping[str, bytes]) -> frozenset[str]:
    """Return the paths of the modules *entries* and of all that they import, at their start or later.

    *sources* are the package's files by path: ``airgap/verify.py``. Modules that are not among them are left out.
    """
    found: set[str] = set()
    pending = list(entries)
    while pending:
        module = pending.pop()
        package, _, _ = module.rpartition(".")
        pending += [package] if package else []
        stem = module.replace(".", "/")
        for path in (f"{stem}.py", f"{stem}/__init__.py"):
            if path in sources and path not in found:
                found.add(path)
                pending += _imports(sources[path])
    return frozenset(found)


def _imports(source: bytes) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # What is imported from a package may be a module of it.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
