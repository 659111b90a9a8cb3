"""How this host reaches the network: what the build was told, else pip's own configuration and the environment."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import requests
from requests.utils import should_bypass_proxies

from airgap.credentials import StoredCredentials
from airgap.errors import AirgapError, UsageError

# pip merges its files, PIP_* variables and defaults; "download" is a command that has all the options of interest.
_ASK_PIP = """
import json
from pip._internal.commands import create_command
options, _ = create_command("download").parse_args([])
print(json.dumps({
    "indexes": [options.index_url, *options.extra_index_urls],
    "certificates": options.cert,
    "client_certificate": options.client_cert,
    "proxy": options.proxy,
    "timeout": options.timeout,
}))
"""
_LONGEST_TIMEOUT = 60.0


@dataclass(frozen=True)
class NetworkOptions:
    """What the operator said about the network; what is empty stays as the host has it."""

    indexes: tuple[str, ...] = ()
    proxy: str | None = None
    no_proxy: tuple[str, ...] = ()
    """Hosts and domains that are reached without *proxy*."""
    ca_file: Path | None = None

    def check(self) -> None:
        """Raise UsageError when the file of certificate authorities is not there."""
        if self.ca_file is not None and not self.ca_file.is_file():
            raise UsageError(
                f"The file of certificate authorities {self.ca_file} is not there: name it with --ca-file."
            )


@dataclass(frozen=True)
class Network:
    """Where Python packages are, and how to get to them and to all others."""

    indexes: tuple[str, ...] = field(default=(), repr=False)
    """Addresses of simple indexes, the first one first; may hold credentials."""
    certificates: str | None = None
    """Path of a file of certificate authorities; None for requests' own rules."""
    client_certificate: str | None = None
    proxy: str | None = field(default=None, repr=False)
    no_proxy: tuple[str, ...] = ()
    """Hosts and domains that are reached without *proxy*."""
    deb_proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    """apt's, by scheme (http, https): where the operator named no proxy, Debian packages come through them."""
    timeout: float = 30.0
    """Seconds without an answer."""

    def session(self, connections: int) -> requests.Session:
        """Return a session that may be used by that many threads at once."""
        proxies = {"http": self.proxy, "https": self.proxy} if self.proxy else {}
        session = _Session(self.certificates, proxies, self.no_proxy)
        adapter = requests.adapters.HTTPAdapter(pool_connections=connections, pool_maxsize=connections)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        session.auth = StoredCredentials()
        if self.client_certificate:
            session.cert = self.client_certificate
        return session

    def with_options(self, options: NetworkOptions) -> Network:
        """Return this network with what the operator said in place of what pip says; raises UsageError."""
        options.check()
        return replace(
            self,
            indexes=options.indexes or self.indexes,
            proxy=options.proxy or self.proxy,
            no_proxy=options.no_proxy,
            certificates=str(options.ca_file) if options.ca_file else self.certificates,
        )

    def session_for_debs(self, connections: int) -> requests.Session:
        """As :meth:`session`, for Debian packages."""
        session = self.session(connections)
        if self.deb_proxies and isinstance(session, _Session):
            session.own_proxies = self.deb_proxies
        return session


class _Session(requests.Session):
    """A session that prefers what it was given to the environment's variables; requests has it the other way round."""

    def __init__(self, certificates: str | None, proxies: Mapping[str, str], no_proxy: Sequence[str]) -> None:
        super().__init__()
        self._certificates = certificates
        self._no_proxy = ",".join(no_proxy)
        self.own_proxies = proxies

    def merge_environment_settings(
        self, url: Any, proxies: MutableMapping[str, str] | None, stream: Any, verify: Any, cert: Any
    ) -> Any:
        merged = super().merge_environment_settings(url, proxies, stream, verify, cert)
        if self._certificates:
            merged["verify"] = self._certificates
        if self.own_proxies:
            merged["proxies"] = self._proxies(str(url))
        return merged

    def rebuild_proxies(self, prepared_request: Any, proxies: Any) -> Any:
        # Called for redirects: requests would look at the environment again.
        rebuilt: Any = super().rebuild_proxies(prepared_request, proxies)  # type: ignore[no-untyped-call]
        return self._proxies(str(prepared_request.url)) if self.own_proxies else rebuilt

    def _proxies(self, url: str) -> dict[str, str]:
        """Return the proxies for *url*: none where the operator's list or the variable ``no_proxy`` says so."""
        if should_bypass_proxies(url, None) or (self._no_proxy and should_bypass_proxies(url, self._no_proxy)):
            return {}
        return dict(self.own_proxies)


def pip_network() -> Network:
    """Return what pip is configured to use on this host.

    Raises AirgapError when pip cannot be asked.
    """
    completed = subprocess.run([sys.executable, "-c", _ASK_PIP], capture_output=True, text=True)
    try:
        options = json.loads(completed.stdout)
    except ValueError as error:
        reason = (completed.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise AirgapError(
            f"pip does not tell which package index to use ({reason}): check pip's configuration (pip config debug)."
        ) from error
    return Network(
        indexes=tuple(url for url in options["indexes"] if url),
        certificates=options["certificates"],
        client_certificate=options["client_certificate"],
        proxy=options["proxy"] or None,
        timeout=min(float(options["timeout"]), _LONGEST_TIMEOUT),
    )
