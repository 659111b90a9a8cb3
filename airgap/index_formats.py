"""The indexes of the mirror's repositories, as text: written by the builder, read and merged on the controller.

Each has one entry for a file, and the same entries give the same bytes. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from html import escape, unescape
from typing import Any
from urllib.parse import quote, unquote

_LINK = re.compile(r'<a href="\.\./\.\./(?P<name>[^"#]+)#sha256=(?P<sha256>[0-9a-f]{64})">')
_SHA256_FIELD = re.compile(r"^SHA256: ([0-9a-f]{64})$", re.MULTILINE)
_FILENAME_FIELD = re.compile(r"^Filename: (\S+)$", re.MULTILINE)


def render_projects(projects: Iterable[str]) -> bytes:
    """Return ``simple/index.html`` of a Python package index (PEP 503) with *projects*, by normalized name."""
    return _html((f"{name}/", name) for name in sorted(projects))


def render_project(files: Mapping[str, str]) -> bytes:
    """Return the page of a project, two levels below its *files*: SHA-256 by file name."""
    return _html((f"../../{quote(name)}#sha256={sha256}", name) for name, sha256 in sorted(files.items()))


def parse_project(page: str) -> dict[str, str]:
    """Return SHA-256 by file name of a page that :func:`render_project` wrote."""
    return {unquote(unescape(match["name"])): match["sha256"] for match in _LINK.finditer(page)}


def render_repodata(subdir: str, packages: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Return ``repodata.json`` of a channel's *subdir* with the records *packages*, by file name."""
    document = {
        "info": {"subdir": subdir},
        "packages": {name: record for name, record in packages.items() if name.endswith(".tar.bz2")},
        "packages.conda": {name: record for name, record in packages.items() if not name.endswith(".tar.bz2")},
        "removed": [],
        "repodata_version": 1,
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def parse_repodata(text: str) -> dict[str, dict[str, Any]]:
    """Return the records of ``repodata.json``, by file name; raises ValueError or KeyError for another text."""
    document = json.loads(text)
    return {**document["packages"], **document["packages.conda"]}


def render_packages(stanzas: Mapping[str, str]) -> bytes:
    """Return the ``Packages`` index of a directory with *stanzas*, by file name, each with a line end at its end."""
    return "\n".join(stanza for _, stanza in sorted(stanzas.items())).encode()


def parse_packages(text: str) -> dict[str, str]:
    """Return the stanzas of a ``Packages`` index, by file name."""
    stanzas = (stanza.strip("\n") + "\n" for stanza in re.split(r"\n{2,}", text) if stanza.strip())
    return {match[1]: stanza for stanza in stanzas if (match := _FILENAME_FIELD.search(stanza))}


def sha256_of_stanza(stanza: str) -> str | None:
    """Return the SHA-256 that a stanza of ``Packages`` names."""
    match = _SHA256_FIELD.search(stanza)
    return match[1] if match else None


def render_release(label: str, packages: bytes) -> bytes:
    """Return the ``Release`` file beside the index *packages*.

    apt wants a date there; a fixed one keeps bundles of the same packages equal.
    """
    return (
        f"Origin: pag\nLabel: {label}\nDate: Thu, 01 Jan 1970 00:00:00 UTC\n"
        f"SHA256:\n {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n"
    ).encode()


def _html(links: Iterable[tuple[str, str]]) -> bytes:
    rows = "".join(f'<a href="{escape(target)}">{escape(text)}</a><br>\n' for target, text in links)
    return (
        '<!DOCTYPE html>\n<html><head><meta name="pypi:repository-version" content="1.0"></head><body>\n'
        f"{rows}</body></html>\n"
    ).encode()
