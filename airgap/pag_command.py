#!/usr/bin/python3 -IB
"""The operator's command on the controller: ``pag status``, and every playbook by its name.

install-pag-controller.sh copies this file to /usr/local/bin/pag. Standard library only, and nothing of this package.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

WELL, WRONG, UNKNOWN = 0, 1, 2
"""Exit codes of ``pag status``."""

RECORD = Path("/opt/pag/playbooks")
"""Link to the playbooks of the bundle that was installed last."""

_INVENTORY = "inventory.yml"
# What tells a directory of playbooks from any other that has an inventory.
_PLAYBOOK = "status.yml"
_TAIL_LINES = 25

_USAGE = """\
usage: pag status [-o text|json] [ARGUMENT...]   say how the cluster is
       pag PLAYBOOK [ARGUMENT...]                run a playbook on the inventory; arguments are ansible-playbook's
       pag --help

pag status ends with 0 when all is well, 1 when something is wrong, 2 when that cannot be found out.

The playbooks and inventory.yml are those of the current directory, else of the directory that the variable PAG_ANSIBLE
names, else of the bundle that was installed last."""


class CommandError(Exception):
    """The command cannot be carried out; the message is one sentence for the operator."""


def directory(current: Path, named: str | None, record: Path = RECORD) -> Path:
    """Return the directory of the playbooks to use.

    Raises CommandError when there is none, or the one that is *named* has no playbooks.
    """
    if (current / _PLAYBOOK).is_file() and (current / _INVENTORY).is_file():
        return current
    if named:
        if not (Path(named) / _PLAYBOOK).is_file():
            raise CommandError(f"PAG_ANSIBLE is {named}, which has no playbooks: name the bundle's directory ansible.")
        return Path(named)
    with contextlib.suppress(OSError):
        if (record / _PLAYBOOK).is_file():
            return record.resolve()
    raise CommandError(
        f"There are no playbooks in {current}, and {record} leads to none that you may read: go to the bundle's "
        "directory ansible, or name it in the variable PAG_ANSIBLE."
    )


def playbooks(directory: Path) -> dict[str, str]:
    """Return the first line of what each playbook in *directory* says of itself, by name."""
    found = {}
    for path in sorted(directory.glob("*.yml")):
        text = path.read_text(encoding="utf-8", errors="replace")
        # A playbook is a list of plays; inventory and secrets are none.
        if not re.search(r"^(?:- |  )(?:hosts|(?:ansible\.builtin\.)?import_playbook):", text, re.MULTILINE):
            continue
        if not re.search(r"^- ", text, re.MULTILINE):
            continue
        head = re.search(r"^# *(?P<line>.*)$", text, re.MULTILINE)
        line = re.split(r"(?<=[.:]) |:$", head["line"] if head else "", maxsplit=1)[0]
        found[path.stem] = line.rstrip(".: ")
    return found


def command(directory: Path, playbook: str, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs a playbook. Raises CommandError when there is no such playbook or no inventory."""
    if playbook not in playbooks(directory):
        raise CommandError(f"{directory} has no playbook {playbook}: pag --help lists them.")
    inventory: list[str] = []
    if not any(argument.startswith(("-i", "--inventory")) for argument in arguments):
        if not (directory / _INVENTORY).is_file():
            raise CommandError(
                f"{directory} has no {_INVENTORY}: copy inventory.yml.example to inventory.yml and put in your nodes."
            )
        inventory = ["-i", _INVENTORY]
    return ["ansible-playbook", *inventory, f"{playbook}.yml", *arguments]


def status(directory: Path, arguments: Sequence[str]) -> int:
    """Print how the cluster is and return the exit code. Raises CommandError when that cannot be found out."""
    form, rest = _output_form(arguments)
    with _private_file() as file:
        finished = subprocess.run(
            [*command(directory, "status", rest), "-e", json.dumps({"status_file": str(file)})],
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            tail = "\n".join(finished.stdout.splitlines()[-_TAIL_LINES:])
            raise CommandError(f"status.yml did not get to its end, see below.\n{tail}") from None
    if form == "json":
        print(json.dumps(found["status"], indent=1, sort_keys=True))
    else:
        print(found["screen"], end="")
    return WELL if found["status"]["well"] else WRONG


def _output_form(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Return the form of output that *arguments* ask for, and the other arguments."""
    form, rest = "text", []
    pending = iter(arguments)
    for argument in pending:
        if argument in ("-o", "--output"):
            form = next(pending, "")
        elif argument.startswith(("--output=", "-o")):
            form = argument.removeprefix("--output").removeprefix("-o").removeprefix("=")
        else:
            rest.append(argument)
    if form not in ("text", "json"):
        raise CommandError(f"{form or 'nothing'} is no form of output: use -o text or -o json.")
    return form, rest


@contextlib.contextmanager
def _private_file() -> Iterator[Path]:
    handle, name = tempfile.mkstemp(prefix="pag-status-", suffix=".json")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _run(directory: Path, playbook: str, arguments: Sequence[str]) -> NoReturn:
    argv = command(directory, playbook, arguments)
    os.chdir(directory)
    os.execvp(argv[0], argv)  # noqa: S606 (the operator's own arguments)


def _help() -> None:
    print(_USAGE)
    with contextlib.suppress(CommandError):
        found = directory(Path.cwd(), os.environ.get("PAG_ANSIBLE"))
        print(f"\nplaybooks in {found}:")
        listed = playbooks(found)
        width = max(map(len, listed), default=0)
        for name, line in listed.items():
            print(f"  {name:<{width}}  {line}")


def main(arguments: Sequence[str]) -> int:
    """Carry out the command and return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        _help()
        return 0 if arguments else UNKNOWN
    name, rest = arguments[0].removesuffix(".yml"), arguments[1:]
    try:
        where = directory(Path.cwd(), os.environ.get("PAG_ANSIBLE"))
        if name == "status":
            return status(where, rest)
        _run(where, name, rest)
    except CommandError as error:
        print(f"pag: {error}", file=sys.stderr)
    except FileNotFoundError as error:
        print(f"pag: {error.filename} is missing: run install-pag-controller.sh.", file=sys.stderr)
    return UNKNOWN


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
