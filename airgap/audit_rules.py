"""The rules that an audit holds files against, as text: what the controller computes and nodes compare with.

========================  ==========================================================================================
``<64 digits>``           a plain file with this SHA-256
``-> <target>``           a symbolic link with exactly this content
``record <64 digits>``    a wheel's installed list of files (PEP 376), compared by :func:`record_digest`
``conda-meta <digits>``   rattler's record of an installed package, compared by :func:`conda_meta_digest`
``uv-cache``              uv's note of when a wheel entered its cache: it holds a time and nothing else
``cachedir-tag``          rattler's mark for backup programs
``? <rule>``              the same, for a file that may be absent
========================  ==========================================================================================

The functions are repeated word for word in Ansible's ``module_utils/audit_environment.py``, which runs without this
package.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from airgap.hashing import sha256_of_bytes

Rules = dict[str, str]
"""Rules by path."""

# uv's note holds a time, and so does not have the same hash twice.
UV_CACHE_NAME = "uv_cache.json"


def link_rule(target: str) -> str:
    """Return the rule for a symbolic link."""
    return f"-> {target}"


def optional(rule: str) -> str:
    """Return *rule* for a file that may be absent."""
    return f"? {rule}"


def record_rule(rows: Iterable[Sequence[str]]) -> str:
    """Return the rule for an installed RECORD with these *rows* (path, hash, size)."""
    return f"record {record_digest(rows)}"


def record_digest(rows: Iterable[Sequence[str]]) -> str:
    """Return the SHA-256 over a RECORD's rows, whatever their order; uv's note is left out."""
    kept = sorted({tuple(row) for row in rows if row and not row[0].endswith(f".dist-info/{UV_CACHE_NAME}")})
    return sha256_of_bytes(json.dumps(kept, separators=(",", ":")).encode())


def conda_meta_rule(record: Mapping[str, Any]) -> str:
    """Return the rule for rattler's *record* of an installed package."""
    return f"conda-meta {conda_meta_digest(record)}"


def conda_meta_digest(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 over what a record says that does not depend on where the package was cached."""
    kept = [record.get(key) for key in ("name", "version", "build", "sha256")]
    kept.append(sorted(record.get("files") or []))
    return sha256_of_bytes(json.dumps(kept, separators=(",", ":")).encode())
