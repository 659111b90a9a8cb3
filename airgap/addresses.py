"""Addresses: as they may be shown, without credentials; and those of files on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"<>]+")
# Package servers take tokens as a path segment after /t/.
_TOKEN_SEGMENT = re.compile(r"/t/[^/]+")
_TOKEN_PARAMETER = re.compile(r"(^|[&;])[^=&;]*(token|secret|password|signature|key)[^=&;]*=[^&;]", re.IGNORECASE)


# No address holds credentials without one of these; most locks have none.
_MARKS = ("@", "/t/", "?")


def redact(url: str) -> str:
    """Return *url* without user, password, query, fragment, and without tokens in its path."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{_TOKEN_SEGMENT.sub('/t/***', parts.path)}"


def redact_text(text: str) -> str:
    """Return *text* with every address in it as :func:`redact` shows it."""
    return _ADDRESS.sub(lambda match: redact(match[0]), text)


def without_credentials(text: str) -> str:
    """Return *text* with every address in it without passwords and tokens, but as good as before for all else."""
    if not any(mark in text for mark in _MARKS):
        return text
    return _ADDRESS.sub(lambda match: _without_credentials(match[0]), text)


def _without_credentials(url: str) -> str:
    if not has_credentials(url):
        return url
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    login, _, host = host.rpartition("@")
    # Over SSH the user is no secret, and without one it is another address.
    user = f"{login}@" if scheme.endswith("ssh") and login and ":" not in login else ""
    path, mark, query = f"{slash}{path}".partition("?")
    query = "&".join(part for part in query.split("&") if not _TOKEN_PARAMETER.search(part))
    return f"{scheme}://{user}{host}{_TOKEN_SEGMENT.sub('', path)}{mark if query else ''}{query}"


def origin(url: str) -> str:
    """Return the part of *url* that names the server, for errors: ``https://host:port``, or the path of a file."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return parts.path
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def local_path(url: str) -> Path | None:
    """Return the file that a file: URL names; None for other URLs."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def has_credentials(text: str) -> bool:
    """Return whether *text* has an address with a user, a password or a token in it."""
    for word in _ADDRESS.findall(text):
        parts = urlsplit(word)
        if "@" in parts.netloc or _TOKEN_SEGMENT.search(parts.path) or _TOKEN_PARAMETER.search(parts.query):
            return True
    return False
