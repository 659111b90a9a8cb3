"""Addresses as they may be shown: without credentials."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

# Package servers take tokens as a path segment after /t/.
_TOKEN_SEGMENT = re.compile(r"/t/[^/]+")


def redact(url: str) -> str:
    """Return *url* without user, password, query, fragment, and without tokens in its path."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{_TOKEN_SEGMENT.sub('/t/***', parts.path)}"


def origin(url: str) -> str:
    """Return the part of *url* that names the server, for errors: ``https://host:port``, or the path of a file."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return parts.path
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
