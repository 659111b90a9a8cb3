"""What the worker's side of a run and its broker say to each other: lists of fields over a socket, with open files.

The fields are bytes without NUL, which stands between them; before them is their length, as four bytes. Standard
library only.
"""

from __future__ import annotations

import sys

# Imported for every run: with socket, typing, struct or json, a run would start some ten milliseconds later.
from _socket import CMSG_SPACE, SCM_RIGHTS, SOL_SOCKET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

SOCKET = "/run/pag/run.sock"

_LENGTH_BYTES = 4
# More than a process can be started with.
_MOST = 8 * 2**20
# Output, errors, and a lock for each GPU; the kernel passes no more than 253.
_FILES = 130
_FILE_BYTES = 4


class ClosedError(Exception):
    """The other side has gone."""


def send(connection: socket, fields: list[bytes], files: tuple[int, ...] = ()) -> None:
    """Send fields, and with them open files."""
    content = b"\0".join(fields)
    message = len(content).to_bytes(_LENGTH_BYTES, "big") + content
    passed = b"".join(descriptor.to_bytes(_FILE_BYTES, sys.byteorder) for descriptor in files)
    sent = connection.sendmsg([message], [(SOL_SOCKET, SCM_RIGHTS, passed)] if files else [])
    if sent < len(message):
        connection.sendall(message[sent:])


def receive(connection: socket) -> tuple[list[bytes], list[int]]:
    """Return the next fields and the files that came with them. Raises ClosedError, or ValueError for nonsense."""
    files: list[int] = []
    head, rights, _, _ = connection.recvmsg(_LENGTH_BYTES, CMSG_SPACE(_FILES * _FILE_BYTES))
    for level, kind, content in rights:
        if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
            parts = [content[first : first + _FILE_BYTES] for first in range(0, len(content), _FILE_BYTES)]
            files += [int.from_bytes(part, sys.byteorder) for part in parts if len(part) == _FILE_BYTES]
    head += _exactly(connection, _LENGTH_BYTES - len(head)) if head else b""
    if not head:
        raise ClosedError
    length = int.from_bytes(head, "big")
    if length > _MOST:
        raise ValueError(f"a message of {length} bytes is too long")
    return _exactly(connection, length).split(b"\0"), files


def _exactly(connection: socket, length: int) -> bytes:
    content = b""
    while len(content) < length:
        part = connection.recv(min(length - len(content), 2**20))
        if not part:
            raise ClosedError
        content += part
    return content
