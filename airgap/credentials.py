"""Credentials from where the package clients keep them: addresses out of pip's configuration, netrc, pixi, apt.

They go into requests' headers, never into files, messages or command lines of ours.
"""

from __future__ import annotations

import json
import netrc
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_auth_from_url, get_netrc_auth

from airgap.sources.apt_archives import APT_DIRECTORY


def pixi_store() -> Path:
    """Return the file in which pixi keeps logins (``pixi auth login``) where the system has no keyring."""
    return Path(os.environ.get("RATTLER_AUTH_FILE") or Path.home() / ".rattler" / "credentials.json")


class StoredCredentials(AuthBase):
    """Adds the credentials for a request's host: the address' own, netrc's, pixi's, apt's; the first that there are.

    Files that this user may not read, and entries of kinds that plain HTTP has no use for, count as absent.
    """

    def __init__(self, pixi: Path | None = None, apt: Path = APT_DIRECTORY) -> None:
        self._pixi_path = pixi or pixi_store()
        self._apt_directory = apt

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Return *request* with what its server wants."""
        url = request.url or ""
        login = get_auth_from_url(url)
        found = (
            HTTPBasicAuth(*login)
            if any(login)
            else self._of_netrc(url) or self._of_pixi(url) or self._of_apt(urlsplit(url))
        )
        return found(request) if found else request

    def _of_netrc(self, url: str) -> AuthBase | None:
        login = get_netrc_auth(url)
        return HTTPBasicAuth(*login) if login else None

    def _of_pixi(self, url: str) -> AuthBase | None:
        host = urlsplit(url).hostname or ""
        # As rattler looks: the host itself, then *.domain from the longest to the shortest.
        names = [host, *(f"*.{host.split('.', depth)[-1]}" for depth in range(host.count(".") + 1))]
        entry = next((self._pixi[name] for name in names if name in self._pixi), {})
        if isinstance(token := entry.get("BearerToken"), str):
            return _Bearer(token)
        if isinstance(token := entry.get("CondaToken"), str):
            return _CondaToken(token)
        if isinstance(basic := entry.get("BasicHTTP"), dict):
            return HTTPBasicAuth(str(basic.get("username", "")), str(basic.get("password", "")))
        return None

    @cached_property
    def _pixi(self) -> Mapping[str, Mapping[str, Any]]:
        try:
            document = json.loads(self._pixi_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(document, dict):
            return {}
        return {str(host): entry for host, entry in document.items() if isinstance(entry, dict)}

    def _of_apt(self, parts: Any) -> AuthBase | None:
        # auth.conf(5): "machine" is a host with an optional path, with the protocol before it for others than https.
        for machine, login, password in self._apt:
            wanted, separator, rest = machine.partition("://")
            scheme, rest = (wanted, rest) if separator else ("https", machine)
            host, slash, path = rest.partition("/")
            same_host = scheme == parts.scheme and host in (parts.netloc, parts.hostname)
            if same_host and parts.path.startswith(slash + path):
                return HTTPBasicAuth(login, password)
        return None

    @cached_property
    def _apt(self) -> list[tuple[str, str, str]]:
        parts = self._apt_directory / "auth.conf.d"
        return list(_read_netrc([self._apt_directory / "auth.conf", *sorted(parts.glob("*.conf"))]))


def _read_netrc(paths: Iterable[Path]) -> Iterator[tuple[str, str, str]]:
    for path in paths:
        try:
            hosts = netrc.netrc(str(path)).hosts
        except (OSError, netrc.NetrcParseError):
            continue
        yield from ((host, login, password or "") for host, (login, _account, password) in hosts.items())


class _Bearer(AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _CondaToken(AuthBase):
    """Puts the token where conda servers look for it: in front of the path."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        parts = urlsplit(request.url or "")
        if not parts.path.startswith("/t/"):
            request.url = urlunsplit(parts._replace(path=f"/t/{self._token}{parts.path}"))
        return request
