"""Stand for a flow run in the worker: ask the broker for the run, pass signals on, and end as the run ended.

``client.py --run=ID [--name=NAME] [--flow=FLOW] [--user=USER] [--limit=NAME=VALUE]... -- COMMAND...``

The broker starts the run in a box of its own, and ends it when this process is gone, for whatever reason. It keeps what
the run has leased, by the locks that this process has inherited. Why a run was refused or ended goes into a file of the
run's name below ``ends`` in the worker's state directory.
"""

from __future__ import annotations

import os
import sys

# Every run waits for this program: socket and signal would import a hundred modules more. What is used here of those
# below them is alike in all versions of Python.
from _signal import SIG_DFL, SIGINT, SIGKILL, SIGTERM, signal
from _socket import AF_UNIX, SOCK_STREAM, socket

from run_messages import SOCKET, ClosedError, receive, send

_REFUSED = b"78"
"""The exit status of a run that was not started."""


def ask(arguments: list[str], path: str = SOCKET) -> list[bytes]:
    """Have the broker run what is wanted; return how it ended: exit status, signal, reason."""
    connection = socket(AF_UNIX, SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError as error:
        return _refusal(
            f"Lost: the run was not started: {path} does not answer ({error.strerror}); run main.yml on "
            f"{os.uname().nodename}."
        )
    try:
        gpus, locks = leased()
        send(connection, [os.getcwdb(), *gpus, *map(os.fsencode, arguments)], (1, 2, *locks))  # noqa: PTH109
        send(connection, [b"%s=%s" % entry for entry in os.environb.items()])
        # Before, a signal ends this process, and with it the run.
        for number in (SIGTERM, SIGINT):
            signal(number, lambda *_: send(connection, [b"stop"]))
        return receive(connection)[0]
    except (ClosedError, OSError):
        return _refusal("Lost: what ran it (pag-run) ended before it.")


def leased() -> tuple[list[bytes], list[int]]:
    """Return an option for each GPU that the run has, and the descriptors of their locks."""
    lease = os.environb.pop(b"PAG_GPU_LEASE", b"")
    pairs = [entry.split(b"=") for entry in lease.split(b",") if entry]
    return [b"--gpu=" + gpu for gpu, _ in pairs], [int(descriptor) for _, descriptor in pairs]


def end(answer: list[bytes], run: str) -> None:
    """Leave the reason to the worker, and end as the run did."""
    status, number, reason = answer
    if reason:
        print(reason.decode(), file=sys.stderr, flush=True)
        note = f"{os.environ['STATE_DIRECTORY']}/ends/{run}"
        try:
            with open(note, "wb") as stream:  # noqa: PTH123
                stream.write(reason)
        except OSError as error:  # the worker has the status at least
            print(f"{note} could not be written: {error}", file=sys.stderr, flush=True)
    if number:
        if int(number) != SIGKILL:
            signal(int(number), SIG_DFL)
        os.kill(os.getpid(), int(number))
    sys.exit(int(status))


def run_of(arguments: list[str]) -> str:
    """Return which run is asked for."""
    return next(argument.removeprefix("--run=") for argument in arguments if argument.startswith("--run="))


def _refusal(reason: str) -> list[bytes]:
    return [_REFUSED, b"", reason.encode()]


if __name__ == "__main__":
    end(ask(sys.argv[1:]), run_of(sys.argv[1:]))
