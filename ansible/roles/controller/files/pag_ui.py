#!/usr/bin/python3
"""Pass connections to this machine's own address on to the server, over TLS that is verified.

pag-ui.py HOST PORT AUTHORITIES        the listening socket comes from systemd

Browsers behind an SSH tunnel come here with plain HTTP, and need not know the cluster's authority.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys

_LISTENING = 3
"""The first socket that systemd hands over."""
_BLOCK = 1 << 16
_CONNECT_SECONDS = 10.0
_REQUEST_SECONDS = 5.0


def refusal(reason: str) -> bytes:
    """Return the answer for a browser when the server cannot be had."""
    text = f"The Prefect server cannot be reached from the controller: {reason}.\n".encode()
    head = f"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + text


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Write what is read until nothing more comes, then end the other side too."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while block := await reader.read(_BLOCK):
            writer.write(block)
            await writer.drain()
    writer.close()


async def serve(host: str, port: int, authorities: str, listening: socket.socket) -> None:
    """Pass connections on until this is stopped."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # Read anew each time: the authorities may be renewed meanwhile.
            context = ssl.create_default_context(cafile=authorities)
            there = await asyncio.wait_for(asyncio.open_connection(host, port, ssl=context), _CONNECT_SECONDS)
        except (OSError, asyncio.TimeoutError) as error:
            reason = " ".join(str(error).split()) or "it does not answer in time"
            print(f"{host}:{port} cannot be reached: {reason}", flush=True)
            # A request that nobody has read would have the connection reset before the answer is seen.
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await asyncio.wait_for(reader.read(_BLOCK), _REQUEST_SECONDS)
            writer.write(refusal(reason))
            writer.close()
            return
        await asyncio.gather(pass_on(reader, there[1]), pass_on(there[0], writer))

    server = await asyncio.start_server(connected, sock=listening)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], socket.socket(fileno=_LISTENING)))
