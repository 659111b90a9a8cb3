"""How this host reaches the network: pip's own configuration, which is where people set up a package index."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field

import requests

from airgap.errors import AirgapError

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
class Network:
    """Where Python packages are, and how to get there."""

    indexes: tuple[str, ...] = field(default=(), repr=False)
    """Addresses of simple indexes, the first one first; may hold credentials."""
    certificates: str | None = None
    """Path of a file of certificate authorities; None for requests' own rules."""
    client_certificate: str | None = None
    proxy: str | None = field(default=None, repr=False)
    timeout: float = 30.0
    """Seconds without an answer."""

    def session(self, connections: int) -> requests.Session:
        """Return a session that may be used by that many threads at once."""
        session = requests.Session()
        adapter = requests.adapters.HTTPAdapter(pool_connections=connections, pool_maxsize=connections)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        if self.certificates:
            session.verify = self.certificates
        if self.client_certificate:
            session.cert = self.client_certificate
        if self.proxy:
            session.proxies = {"http": self.proxy, "https": self.proxy}
        return session


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
