"""The node's own PostgreSQL, through its programs and its Unix socket, as the administrator: no password is needed."""

from __future__ import annotations

import subprocess
from typing import IO

_USER = "postgres"
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PGCONNECT_TIMEOUT": "30"}


class PostgresError(Exception):
    """PostgreSQL refused something; the message is what it said, in one line."""


def run(command: list[str], *, text: str | None = None, stdin: IO[bytes] | None = None) -> str:
    """Run one of PostgreSQL's programs as the administrator and return what it prints; raises PostgresError.

    It reads *text*, or the open file *stdin*, or nothing.
    """
    given = {"input": text.encode()} if text is not None else {"stdin": stdin or subprocess.DEVNULL}
    finished = subprocess.run(
        command, user=_USER, group=_USER, extra_groups=[], env=_ENVIRONMENT, cwd="/", capture_output=True, **given
    )
    if finished.returncode != 0:
        lines = [line for line in finished.stderr.decode(errors="replace").splitlines() if line.strip()]
        raise PostgresError(lines[0].strip() if lines else f"{command[0]} ended with {finished.returncode}")
    return finished.stdout.decode()


def query(database: str, statements: str) -> list[list[str]]:
    """Run SQL *statements* in *database*, each in its own transaction, and return the rows; raises PostgresError."""
    command = ["psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--field-separator=\t"]
    output = run([*command, "--set=ON_ERROR_STOP=1", f"--dbname={database}"], text=statements)
    return [line.split("\t") for line in output.splitlines()]


def value(database: str, statement: str) -> str:
    """Return the one value that *statement* gives in *database*, empty for NULL and no row; raises PostgresError."""
    rows = query(database, statement)
    return rows[0][0] if rows else ""


def literal(text: str) -> str:
    """Return *text* as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return *name* as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
