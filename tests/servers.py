"""A file server on the loopback address whose manners a test chooses."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class FileServer:
    files: dict[str, bytes] = field(default_factory=dict)
    content_types: dict[str, str] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    """Answers to give first, before any file; 0 breaks the connection off in the middle of the file."""
    ranges: bool = True
    stall: threading.Event | None = None
    """When set to an event, the second half of each file waits for it."""
    trickle: threading.Event | None = None
    """When set to an event, the second half of each file comes byte by byte until it is set."""
    page: bytes | None = None
    """A web page to answer every GET with, as a network's login does."""
    redirects: dict[str, str] = field(default_factory=dict)
    retry_after: str = ""
    """What to say with the answers in *statuses*."""
    length_error: int = 0
    """Bytes by which the Content-Length of whole files is wrong; more than there are, or fewer."""
    range_error: int = 0
    """Bytes by which continued files start elsewhere than was asked for, and than the answer says."""
    told_range_error: int = 0
    """The same, and the answer says so."""
    login: str = ""
    """The Authorization header to demand."""
    refused: tuple[str, ...] = ()
    """Beginnings of paths to answer with 401."""
    certificate: Path | None = None
    """A file with a certificate and its key: speak TLS with it."""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    half_sent: threading.Event = field(default_factory=threading.Event)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        state = self.server.state
        state.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        status = state.statuses.pop(0) if state.statuses and body else 200
        # A client that takes this server for its proxy asks with the whole address.
        path = urlsplit(self.path).path
        content = state.files.get(path)
        if path.startswith(state.refused) or (state.login and self.headers.get("Authorization") != state.login):
            status = 401
        if path in state.redirects:
            self._short(302, {"Location": state.redirects[path]})
            return
        if state.page is not None and body:
            self._short(200, {"Content-Type": "text/html"}, state.page)
            return
        if status >= 400 or content is None:
            self._short(status if status >= 400 else 404, {"Retry-After": state.retry_after})
            return
        start = 0
        wanted = self.headers.get("Range", "")
        if wanted and state.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self._short(416, {})
                return
            self.send_response(206)
            told = start + state.told_range_error
            self.send_header("Content-Range", f"bytes {told}-{len(content) - 1}/{len(content)}")
            start = told + state.range_error
        else:
            self.send_response(200)
        whole = not start
        half = max(0, len(content) // 2 - start) if state.trickle is not None else (len(content) - start) // 2
        content = content[start:]
        self.send_header("Content-Type", state.content_types.get(self.path, "application/octet-stream"))
        length = len(content) + (state.length_error if whole else 0)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if not body:
            return
        # The connection cannot be used for another answer when this one was not as long as it said.
        self.close_connection = length != len(content)
        try:
            self.wfile.write(content[:half])
            self.wfile.flush()
            state.half_sent.set()
            if status == 0:
                self.close_connection = True
                return
            if state.stall is not None:
                state.stall.wait(10)
            while state.trickle is not None and half < len(content) and not state.trickle.wait(0.002):
                self.wfile.write(content[half : half + 1])
                half += 1
            self.wfile.write(content[half:])
        except OSError:
            self.close_connection = True

    def _short(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, state: FileServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.state = state
        if state.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(state.certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing when a client leaves, as one does that does not trust the certificate."""


@contextmanager
def serve(**options: object) -> Iterator[FileServer]:
    state = FileServer(**options)  # type: ignore[arg-type]
    server = _Server(state)
    state.url = f"{'https' if state.certificate else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        for event in (state.stall, state.trickle):
            if event is not None:
                event.set()
        server.shutdown()
        thread.join()
        server.server_close()
