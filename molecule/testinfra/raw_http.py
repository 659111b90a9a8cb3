"""HTTP as no library would send it: bytes over verified TLS, and whatever came back."""

from __future__ import annotations

import base64
import http.client
import io
import json
import secrets
import socket
import ssl
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# How long a connection that the server leaves open may say nothing before what it said counts as all.
_IDLE_SECONDS = 3.0
_MOST_BYTES = 1 << 24
Headers = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """One answer; status 0: the connection was closed without one."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def away(self) -> bool:
        """Whether the proxy answered for a server that did not."""
        return self.status in {502, 504} or "prefect-maintenance" in self.headers


@dataclass(frozen=True)
class Door:
    """The server's port, which a tunnel forwards to this host."""

    port: int
    authorities: Path

    def connect(self, *, secure: bool = True) -> socket.socket:
        """Open a connection; the server's certificate is checked."""
        plain = socket.create_connection(("localhost", self.port), timeout=30)
        if not secure:
            return plain
        context = ssl.create_default_context(cafile=str(self.authorities))
        return context.wrap_socket(plain, server_hostname="localhost")

    def send(self, sent: bytes, *, secure: bool = True) -> bytes:
        """Send bytes and return all that comes back."""
        received = b""
        with self.connect(secure=secure) as connection:
            try:
                connection.sendall(sent)
                while len(received) < _MOST_BYTES and (part := connection.recv(65536)):
                    received += part
                    connection.settimeout(_IDLE_SECONDS)
            except (ConnectionError, TimeoutError, ssl.SSLError):
                # Closed or left open in the middle: what came until then is the answer.
                pass
        return received

    def ask(self, method: str, target: str, *, headers: Headers = (), body: bytes = b"") -> Answer:
        """Ask one question in the usual form."""
        return answers(self.send(request(method, target, headers=headers, body=body)), method)[0]


def request(
    method: str,
    target: str,
    *,
    version: str = "HTTP/1.1",
    headers: Headers = (),
    body: bytes = b"",
    host: str = "pag-server",
) -> bytes:
    """Return a request's bytes; nothing in it is checked or encoded."""
    lines = [f"{method} {target} {version}", f"Host: {host}", "Connection: close"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", errors="replace") + body


class _Received(io.BytesIO):
    """What came, as http.client wants to read it: from a socket, until its end."""

    def makefile(self, *_: object) -> _Received:
        return self

    def close(self) -> None:
        """Stay open for the next answer."""


def answers(received: bytes, method: str = "GET") -> list[Answer]:
    """Take apart what came back: at least one answer."""
    found: list[Answer] = []
    stream = _Received(received)
    while stream.tell() < len(received):
        start = stream.tell()
        response = http.client.HTTPResponse(stream, method=method)  # type: ignore[arg-type]
        try:
            response.begin()
            body = b"" if response.status == 101 else response.read()
        except http.client.HTTPException:
            # Without a status line (HTTP/0.9), or cut short: nothing of it is lost.
            found.append(Answer(0, {}, received[start:]))
            break
        headers = {name.lower(): value for name, value in response.getheaders()}
        found.append(Answer(response.status, headers, body))
        if response.status == 101:
            break
    return found or [Answer(0, {}, b"")]


def login_header(login: str) -> tuple[str, str]:
    """Return the header of a login, ``user:password``."""
    return ("Authorization", "Basic " + base64.b64encode(login.encode()).decode())


def upgrade(protocol: str | None = "prefect") -> list[tuple[str, str]]:
    """Return the headers that ask for a websocket."""
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    headers = [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", key)]
    return headers if protocol is None else [*headers, ("Sec-WebSocket-Protocol", protocol)]


def converse(
    door: Door, target: str, messages: Iterable[Any], protocol: str | None = "prefect"
) -> tuple[Answer, bytes]:
    """Open a websocket, send messages, and return the answer to the request and all that came afterwards."""
    opening = request("GET", target, headers=upgrade(protocol)).replace(b"Connection: close", b"Connection: upgrade")
    frames = b"".join(_frame(json.dumps(message).encode()) for message in messages)
    received = door.send(opening + frames)
    head, _, rest = received.partition(b"\r\n\r\n")
    return answers(head + b"\r\n\r\n")[0], rest


def closing_code(frames: bytes) -> int | None:
    """Return the code that a websocket's first message closes it with; None: it says something else."""
    if len(frames) >= 4 and frames[0] == 0x88:
        return int(struct.unpack("!H", frames[2:4])[0])
    return None


def _frame(text: bytes) -> bytes:
    mask = secrets.token_bytes(4)
    length = bytes([0x80 | len(text)]) if len(text) < 126 else bytes([0x80 | 126]) + struct.pack("!H", len(text))
    return b"\x81" + length + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(text))
