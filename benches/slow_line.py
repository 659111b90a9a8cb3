"""A proxy on the loopback address that lets through so many bytes a second, for all connections together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

_BLOCK_BYTES = 64 * 1024


@contextmanager
def slow_line(bytes_per_second: float) -> Iterator[str]:
    """Yield the address of a proxy with that speed; it ends with the block."""
    loop = asyncio.new_event_loop()
    proxy = _Proxy(bytes_per_second)
    server = loop.run_until_complete(asyncio.start_server(proxy.serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()


class _Proxy:
    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._free_at = 0.0
        """When the line has let through all that it was given."""
        self._hosts: dict[str, str] = {}
        """Addresses by name: a name server that is slow is no part of the line."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection: a tunnel, or one plain request."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            if method == "CONNECT":
                host, _, port = target.rpartition(":")
                server_reader, server_writer = await self._connect(host, int(port))
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                parts = urlsplit(target)
                server_reader, server_writer = await self._connect(parts.hostname or "", parts.port or 80)
                server_writer.write(_direct(head, target))
            await asyncio.gather(self._copy(reader, server_writer), self._copy(server_reader, writer, slowly=True))
        except (OSError, asyncio.IncompleteReadError):
            pass  # one of the two has left
        finally:
            writer.close()

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        streams = await asyncio.open_connection(self._hosts.get(host, host), port)
        self._hosts[host] = streams[1].get_extra_info("peername")[0]
        return streams

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slowly: bool = False) -> None:
        try:
            while block := await reader.read(_BLOCK_BYTES):
                if slowly:
                    await self._wait(len(block))
                writer.write(block)
                await writer.drain()
        finally:
            writer.close()

    async def _wait(self, size: int) -> None:
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now) + size / self._rate
        await asyncio.sleep(self._free_at - now)


def _direct(head: bytes, target: str) -> bytes:
    """Return the request as the server wants it: with a path, and for this one answer only."""
    parts = urlsplit(target)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = head.decode("latin-1").split("\r\n")
    method, _, version = lines[0].split(" ")
    kept = [line for line in lines[1:-2] if not line.lower().startswith(("proxy-connection:", "connection:"))]
    return "\r\n".join([f"{method} {path} {version}", *kept, "Connection: close", "", ""]).encode("latin-1")
