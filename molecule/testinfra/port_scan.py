"""Print the TCP ports of a host that accept connections: ``python3 port_scan.py ADDRESS``. Standard library only."""

from __future__ import annotations

import errno
import resource
import select
import socket
import sys
import time

_PORTS = range(1, 65536)
# Sockets at a time; dropped ones take the whole time.
_BATCH = 8000
_SECONDS = 1.0


def open_ports(address: str) -> list[int]:
    """Return the ports that accept a connection within a second."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    batch = min(_BATCH, hard - 100)
    resource.setrlimit(resource.RLIMIT_NOFILE, (batch + 100, hard))
    found: list[int] = []
    for first in range(_PORTS.start, _PORTS.stop, batch):
        found += _accepting(address, range(first, min(first + batch, _PORTS.stop)))
    return found


def _accepting(address: str, ports: range) -> list[int]:
    found, waiting = [], {}
    poll = select.poll()
    for port in ports:
        endpoint = socket.socket()
        endpoint.setblocking(False)
        if endpoint.connect_ex((address, port)) == errno.EINPROGRESS:
            waiting[endpoint.fileno()] = (port, endpoint)
            poll.register(endpoint, select.POLLOUT)
    deadline = time.monotonic() + _SECONDS
    while waiting and (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left * 1000):
            port, endpoint = waiting.pop(descriptor)
            poll.unregister(descriptor)
            if endpoint.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                found.append(port)
            endpoint.close()
    for _, endpoint in waiting.values():
        endpoint.close()
    return sorted(found)


if __name__ == "__main__":
    print(*open_ports(sys.argv[1]))
