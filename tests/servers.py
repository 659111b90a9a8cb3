"""A file server on the loopback address whose manners a test chooses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    files: dict[str, bytes] = field(default_factory=dict)
    content_types: dict[str, str] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    """Answers to give first, before any file; 0 breaks the connection off in the middle of the file."""
    ranges: bool = True
    stall: threading.Event | None = None
    """When set to an event, the second half of each file waits for it."""
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
        content = state.files.get(self.path.partition("?")[0])
        if status >= 400 or content is None:
            self.send_response(status if status >= 400 else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        wanted = self.headers.get("Range", "")
        if wanted and state.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        content = content[start:]
        self.send_header("Content-Type", state.content_types.get(self.path, "application/octet-stream"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not body:
            return
        half = len(content) // 2
        try:
            self.wfile.write(content[:half])
            self.wfile.flush()
            state.half_sent.set()
            if status == 0:
                self.close_connection = True
                return
            if state.stall is not None:
                state.stall.wait(10)
            self.wfile.write(content[half:])
        except OSError:
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, state: FileServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.state = state


@contextmanager
def serve(**options: object) -> Iterator[FileServer]:
    state = FileServer(**options)  # type: ignore[arg-type]
    server = _Server(state)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        if state.stall is not None:
            state.stall.set()
        server.shutdown()
        thread.join()
        server.server_close()
