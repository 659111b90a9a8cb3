"""The builder's command line. Errors are caught here, once."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from airgap import cli_build
from airgap.errors import AirgapError

_PROGRAM = "build-bundle.py"
_INTERRUPTED = 130
_COMMANDS = ("verify", "inspect", "diff", "pack-flow")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that *arguments* name and return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parser = _command_parser() if given and given[0] in _COMMANDS else cli_build.parser(_PROGRAM)
        options = parser.parse_args(given)
        return int(options.run(options))
    except AirgapError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; start again to go on where it was.", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # What reads our output has left (head, less): no reason to complain to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _command_parser() -> argparse.ArgumentParser:
    # Only now: a build does without them.
    from airgap import cli_bundle, cli_pack

    parser = argparse.ArgumentParser(prog=_PROGRAM)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    cli_bundle.add_commands(commands)
    cli_pack.add_command(commands)
    return parser


def _exit(status: int) -> NoReturn:
    """End the process without waiting for threads: after an error or Ctrl-C they may sit in a read for a minute."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _exit(main())
