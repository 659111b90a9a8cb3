"""Backups of a server, as the program on the server writes them, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.module_utils.server_backup import DUMP, FORMAT_VERSION, MANIFEST, describe


def write_backup(directory: Path, name: str = "2026-11-20T021500Z", **changed: Any) -> Path:
    """Write a backup with a dump and a settings file and return its directory."""
    path = directory / name
    (path / "settings").mkdir(parents=True)
    (path / DUMP).write_bytes(b"PGDMP" + b"x" * 5000)
    (path / "settings/server.env").write_text('PREFECT_API_URL="http://127.0.0.1"\n')
    manifest: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "made": "2026-11-20T02:15:00+00:00",
        "prefect": "3.8.8",
        "postgresql": "15.9",
        "schema_revision": "abc123",
        "database_bytes": 20_000,
        "rows": {"deployment": 1},
        "files": describe(path),
    }
    (path / MANIFEST).write_text(json.dumps(manifest | changed))
    return path
