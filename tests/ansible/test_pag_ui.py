"""The controller's way to the server: plain HTTP here, verified TLS there."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest

FILES = Path(__file__).resolve().parents[2] / "ansible/roles/controller/files"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FILES)
    import pag_ui

    return pag_ui


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for localhost, in one file with its key."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    paths = ["-addext", "subjectAltName=DNS:localhost", "-keyout", tmp_path / "key", "-out", tmp_path / "crt"]
    try:
        subprocess.run([*command, *paths], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl")
    return tmp_path


@contextlib.asynccontextmanager
async def passing(program: ModuleType, port: int, authorities: Path) -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        task = asyncio.ensure_future(program.serve("localhost", port, str(authorities), listening))
        yield listening.getsockname()[1]
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"hello\n")
    answer = await reader.read()
    writer.close()
    return answer


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"over TLS: " + await reader.readline())
    writer.close()


def test_what_is_said_goes_over_tls_to_a_server_that_is_verified(program: ModuleType, certificate: Path) -> None:
    async def scenario() -> tuple[bytes, bytes]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate / "crt", certificate / "key")
        server = await asyncio.start_server(_echo, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        (certificate / "others").write_text("")
        async with passing(program, port, certificate / "crt") as good:
            answered = await _ask(good)
        async with passing(program, port, certificate / "others") as bad:
            refused = await _ask(bad)
        server.close()
        return answered, refused

    answered, refused = asyncio.run(scenario())
    assert answered == b"over TLS: hello\n"
    assert refused.startswith(b"HTTP/1.1 502 ")
    assert b"cannot be reached from the controller" in refused


def test_a_server_that_is_away_is_said_to_the_browser(program: ModuleType, certificate: Path) -> None:
    async def scenario() -> bytes:
        async with passing(program, 9, certificate / "crt") as port:
            return await _ask(port)

    assert b"502 Bad Gateway" in asyncio.run(scenario())
