"""What the worker's side of a run and its broker say to each other: JSON documents over a socket, with open files.

Each document has its length before it, as four bytes. Standard library only.
"""

from __future__ import annotations

import array
import json
import socket
import struct

# Imported for every run: without typing and pathlib, a run starts some milliseconds earlier.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SOCKET = "/run/pag/run.sock"

_LENGTH = struct.Struct("!I")
# More than a process can be started with.
_MOST = 8 * 2**20
_FILES = 8


class ClosedError(Exception):
    """The other side has gone."""


def send(connection: socket.socket, document: dict[str, Any], files: tuple[int, ...] = ()) -> None:
    """Send a document, and with it open files."""
    content = json.dumps(document).encode()
    message = _LENGTH.pack(len(content)) + content
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    sent = connection.sendmsg([message], rights)
    if sent < len(message):
        connection.sendall(message[sent:])


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return the next document and the files that came with it. Raises ClosedError, or ValueError for nonsense."""
    files = array.array("i")
    head, rights, _, _ = connection.recvmsg(_LENGTH.size, socket.CMSG_SPACE(_FILES * files.itemsize))
    for level, kind, content in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            files.frombytes(content[: len(content) - len(content) % files.itemsize])
    head += _exactly(connection, _LENGTH.size - len(head)) if head else b""
    if not head:
        raise ClosedError
    (length,) = _LENGTH.unpack(head)
    if length > _MOST:
        raise ValueError(f"a message of {length} bytes is too long")
    document = json.loads(_exactly(connection, length))
    if not isinstance(document, dict):
        raise ValueError("a message has to be a dictionary")
    return document, list(files)


def _exactly(connection: socket.socket, length: int) -> bytes:
    content = b""
    while len(content) < length:
        part = connection.recv(min(length - len(content), 2**20))
        if not part:
            raise ClosedError
        content += part
    return content
