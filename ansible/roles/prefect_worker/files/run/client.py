"""Stand for a flow run in the worker: ask the broker for the run, pass signals on, and end as the run ended.

``client.py --run=ID [--name=NAME] [--flow=FLOW] [--limit=NAME=VALUE]... -- COMMAND...``

The broker starts the run in a box of its own, and ends it when this process is gone, for whatever reason. Why a run was
refused or ended goes into a file of the run's name below ``ends`` in the worker's state directory.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from run_messages import SOCKET, ClosedError, receive, send

# Imported for every run: without typing and pathlib, a run starts some milliseconds earlier.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_REFUSED = 78
"""The exit status of a run that was not started."""


def parse(arguments: list[str]) -> dict[str, Any]:
    """Return what the arguments ask for, as the broker wants it."""
    request: dict[str, Any] = {"run": "", "name": "", "flow": "", "limits": {}}
    border = arguments.index("--")
    for argument in arguments[:border]:
        option, _, value = argument.removeprefix("--").partition("=")
        if option == "limit":
            name, _, amount = value.partition("=")
            request["limits"][name] = amount
        else:
            request[option] = value
    return request | {"command": arguments[border + 1 :]}


def ask(request: dict[str, Any], path: str = SOCKET) -> dict[str, Any]:
    """Have the broker run what is wanted; return how it ended."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError as error:
        return _refusal(
            f"The run was not started: {path} does not answer ({error.strerror}); run main.yml on this node."
        )
    try:
        send(connection, request, (1, 2))
        # Before, a signal ends this process, and with it the run.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: send(connection, {"stop": True}))
        return receive(connection)[0]
    except (ClosedError, OSError):
        return _refusal("Lost: what ran it (pag-run) ended before it.")


def end(answer: dict[str, Any], run: str) -> None:
    """Leave the reason to the worker, and end as the run did."""
    if answer.get("reason"):
        print(answer["reason"], file=sys.stderr, flush=True)
        note = f"{os.environ['STATE_DIRECTORY']}/ends/{run}"
        with open(note, "w", encoding="utf-8") as stream:  # noqa: PTH123
            stream.write(answer["reason"])
    if number := answer.get("signal"):
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    sys.exit(answer["status"])


def _refusal(reason: str) -> dict[str, Any]:
    return {"status": _REFUSED, "signal": None, "reason": reason}


def main() -> None:
    """Run it."""
    request = parse(sys.argv[1:])
    directory, environment = os.getcwd(), dict(os.environ)  # noqa: PTH109
    end(ask(request | {"directory": directory, "environment": environment}), request["run"])


if __name__ == "__main__":
    main()
