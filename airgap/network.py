"""How this host reaches the network: what the build was told, else pip's own configuration and the environment."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airgap.addresses import has_credentials
from airgap.errors import AirgapError, UsageError
from airgap.memory import Memory, digest_of

if TYPE_CHECKING:
    from airgap.sessions import Session

# pip merges its files, PIP_* variables and defaults; "download" is a command that has all the options of interest.
_ASK_PIP = """
import json
from pip._internal.commands import create_command
from pip._internal.configuration import get_configuration_files
options, _ = create_command("download").parse_args([])
print(json.dumps({
    "indexes": [options.index_url, *options.extra_index_urls],
    "certificates": options.cert,
    "client_certificate": options.client_cert,
    "proxy": options.proxy,
    "timeout": options.timeout,
    "places": [path for paths in get_configuration_files().values() for path in paths],
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

    def session(self, connections: int) -> Session:
        """Return a session that may be used by that many threads at once."""
        return self._session(connections, {"http": self.proxy, "https": self.proxy} if self.proxy else {})

    def session_for_debs(self, connections: int) -> Session:
        """As :meth:`session`, for Debian packages."""
        return self._session(connections, self.deb_proxies) if self.deb_proxies else self.session(connections)

    def _session(self, connections: int, proxies: Mapping[str, str]) -> Session:
        # Only now: reading the network's configuration is quick, and loading a client for it is not.
        from airgap.sessions import Session

        return Session(connections, self.certificates, self.client_certificate, proxies, self.no_proxy)

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


def pip_network(cache: Path | None = None) -> Network:
    """Return what pip is configured to use on this host.

    Its answer is remembered in *cache* for as long as the files and the variables that it comes from are the same.
    Raises AirgapError when pip cannot be asked.
    """
    memory = Memory(cache, "pip") if cache is not None else None
    key = digest_of(_ASK_PIP, sys.prefix, *_variables())
    options = memory.recall(key) if memory is not None else None
    if not isinstance(options, dict) or options.get("contents") != _contents(options.get("places", ())):
        options = _ask_pip()
        options["places"] += [place] if (place := os.environ.get("PIP_CONFIG_FILE")) else []
        options["contents"] = _contents(options["places"])
        # What is secret stays where it is.
        if memory is not None and not any(
            "@" in address or has_credentials(address) for address in _addresses(options)
        ):
            memory.remember(key, options)
    return Network(
        indexes=tuple(url for url in options["indexes"] if url),
        certificates=options["certificates"],
        client_certificate=options["client_certificate"],
        proxy=options["proxy"] or None,
        timeout=min(float(options["timeout"]), _LONGEST_TIMEOUT),
    )


def _variables() -> list[str]:
    """Return those of the environment that pip's configuration comes from, or leads to it."""
    names = [name for name in os.environ if name.startswith(("PIP_", "XDG_")) or name == "HOME"]
    return [f"{name}={os.environ[name]}" for name in sorted(names)]


def _contents(places: Iterable[str]) -> dict[str, str | None]:
    """Return the digests of pip's configuration files, by their names; None for those that are not there."""
    contents: dict[str, str | None] = {}
    for place in places:
        try:
            contents[place] = digest_of(Path(place).read_bytes())
        except OSError:
            contents[place] = None
    return contents


def _addresses(options: Mapping[str, Any]) -> list[str]:
    return [address for address in (*options["indexes"], options["proxy"]) if address]


def _ask_pip() -> dict[str, Any]:
    import subprocess

    completed = subprocess.run([sys.executable, "-c", _ASK_PIP], capture_output=True, text=True)
    try:
        options: dict[str, Any] = json.loads(completed.stdout)
    except ValueError as error:
        reason = (completed.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise AirgapError(
            f"pip does not tell which package index to use ({reason}): check pip's configuration (pip config debug)."
        ) from error
    return options
