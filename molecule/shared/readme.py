"""The README's commands: what the guide tells operators to type is what the demo and the tests run."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).resolve().parent.parent.parent / "README.md"

_BLOCK = re.compile(r"^<!-- demo:(?P<name>[a-z-]+) -->\n```shell\n(?P<lines>.*?)^```$", re.MULTILINE | re.DOTALL)


class ReadmeError(Exception):
    """The README has no such commands."""


def blocks(readme: Path = README) -> dict[str, list[str]]:
    """Return the marked blocks' commands by the blocks' names.

    A block is fenced as ``shell`` and follows a line ``<!-- demo:NAME -->``. A command that a backslash continues is
    one entry; empty lines and comments are left out.
    """
    found: dict[str, list[str]] = {}
    for match in _BLOCK.finditer(readme.read_text(encoding="utf-8")):
        text = match["lines"].replace("\\\n", " ")
        commands = [line.strip() for line in text.splitlines()]
        found[match["name"]] = [command for command in commands if command and not command.startswith("#")]
    return found


def commands(name: str, readme: Path = README) -> list[str]:
    """Return the commands of the block called *name*; raises ReadmeError when there is none."""
    try:
        return blocks(readme)[name]
    except KeyError:
        raise ReadmeError(f"{readme} has no block <!-- demo:{name} -->.") from None
