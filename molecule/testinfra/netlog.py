"""Read Chromium's own network log: which hosts a browser asked for, looked up and connected to.

The log is what ``chromium --log-net-log=FILE`` writes: https://www.chromium.org/developers/design-documents/network-stack/netlog/.
It is made below everything that a page can do, and below what DevTools shows: the browser's own requests are in it too.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_LOOKUPS = ("HOST_RESOLVER_MANAGER_REQUEST", "HOST_RESOLVER_MANAGER_JOB", "HOST_RESOLVER_DNS_TASK")
_REQUESTS = ("URL_REQUEST_START_JOB", "CORS_REQUEST", "HTTP_STREAM_JOB_CONTROLLER", "WEBSOCKET_UPGRADE_REQUEST")
_NEEDED = (
    "URL_REQUEST_START_JOB",
    "HOST_RESOLVER_MANAGER_REQUEST",
    "TCP_CONNECT_ATTEMPT",
    "UDP_CONNECT",
    "UDP_BYTES_SENT",
)
_BROWSER_SCHEMES = {"", "about", "blob", "chrome", "chrome-extension", "data", "devtools", "file"}


@dataclass(frozen=True)
class Traffic:
    """What a browser did on the network, from its start to its end.

    *requested* and *looked_up* are host names, *connected* are addresses that a TCP connection was tried to or a
    datagram was sent to. What was turned to the sink is named so, and is outside.
    """

    requested: frozenset[str]
    looked_up: frozenset[str]
    connected: frozenset[str]

    @property
    def outside(self) -> list[str]:
        """All of it that is not this machine itself, sorted."""
        return sorted(host for host in self.requested | self.looked_up | self.connected if not _is_local(host))

    def __str__(self) -> str:
        parts = (("asked for", self.requested), ("looked up", self.looked_up), ("connected to", self.connected))
        return "; ".join(f"{what} {', '.join(sorted(hosts)) or 'nothing'}" for what, hosts in parts)


def read(path: Path, *, sink: int) -> Traffic:
    """Return the traffic that the log file *path* tells of. The browser must have ended.

    *sink* is the port on this machine that the browser was told to take for every host but localhost
    (``--host-resolver-rules``): Chromium applies such rules first and logs their result, not the name.

    Raises ValueError for a log that was cut short, or that lacks the kinds of events this reader needs to see.
    """
    log = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    types: dict[str, int] = log["constants"]["logEventTypes"]
    # A renamed event must not look like silence.
    if missing := [name for name in _NEEDED if name not in types]:
        raise ValueError(f"This Chromium's network log has no {', '.join(missing)} events: adapt {__name__}.")
    names = {number: name for name, number in types.items()}

    requested: set[str] = set()
    looked_up: set[str] = set()
    connected: set[str] = set()
    peers: dict[int, str] = {}
    for event in log["events"]:
        name = names.get(event["type"], "")
        params: dict[str, Any] = event.get("params") or {}
        source: int = event["source"]["id"]
        if name in _REQUESTS and isinstance(params.get("url"), str):
            parts = urlsplit(params["url"])
            if parts.scheme not in _BROWSER_SCHEMES:
                requested.add(parts.hostname or params["url"])
        elif name in _LOOKUPS and isinstance(params.get("host"), str):
            looked_up.add(_host(params["host"], sink))
        elif name == "TCP_CONNECT_ATTEMPT" and "address" in params:
            connected.add(_host(params["address"], sink))
        elif name == "UDP_CONNECT" and "address" in params:
            # No packet yet: Chromium connects a datagram socket to learn whether there is a route.
            peers[source] = _host(params["address"], sink)
        elif name == "UDP_BYTES_SENT":
            connected.add(
                _host(params["address"], sink) if "address" in params else peers.get(source, "an unknown address")
            )
    return Traffic(frozenset(requested), frozenset(looked_up), frozenset(connected))


def _host(text: str, sink: int) -> str:
    """Return the host of ``https://host:443``, ``host:443``, ``[::1]:443`` or ``host``."""
    parts = urlsplit(text if "://" in text else f"//{text}")
    if parts.port == sink:
        return "the sink"
    return parts.hostname or text


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
