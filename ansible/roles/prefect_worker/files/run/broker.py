"""Run flow runs in boxes of their own, for the workers that connect to the socket which systemd hands over.

By pag-run.service, as root. A process for each connection starts a transient unit, and ends it when the worker says so
or is gone. When such a process is killed, this one ends its unit; when this one is, systemd does (BindsTo=).

What a unit leaves is removed here, by no ExecStopPost=: systemd 252 forgets those of transient units when it reloads.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from run_box import Box, Node, command_line, environment_file, environment_of, make_box
from run_counters import Counters
from run_end import PROPERTIES, End, read_end
from run_gpus import LOCKS, UnknownGpuError, closed_files
from run_limits import LimitError, read_limits
from run_messages import ClosedError, receive, send
from run_request import Request, read_request

_SETTINGS = Path("/etc/prefect/run.json")
_NOTES = Path("/run/pag-run")
_REFUSED = 78
# ioctl_ficlone(2)
_FICLONE = 0x40049409
_BLOCK_BYTES = 1 << 20
_AGAIN_SECONDS = 1.0
_COUNTERS_SECONDS = 0.1
_IDLE_SECONDS = 10.0
# The first descriptor that systemd hands over.
_LISTENER = 3
_UNIT = "pag-run.service"
_WORKER = re.compile(r"/prefect-worker-[a-z]+\.service$", re.MULTILINE)
_CREDENTIALS = struct.Struct("3i")


class RefusedError(Exception):
    """The run is not started; the message is one sentence."""


def read_node(settings: Path = _SETTINGS) -> Node:
    """Return what the node's settings say."""
    content = json.loads(settings.read_text(encoding="utf-8"))
    return Node(
        user=content["user"],
        home=Path(content["home"]),
        write_paths=tuple(content["write_paths"]),
        flow_users=tuple(content["flow_users"]),
        close_gpus=content["close_gpus"],
    )


def choose_user(node: Node, wanted: str) -> str:
    """Return who a run is to be. Raises RefusedError."""
    if not wanted:
        return node.user
    if wanted not in node.flow_users:
        raise RefusedError(
            f"The run was not started: flow_user is {wanted!r}, and {os.uname().nodename} has "
            f"{', '.join(node.flow_users) or 'none'}: add it to flow_users in inventory.yml and run main.yml."
        )
    try:
        uid = pwd.getpwnam(wanted).pw_uid
    except KeyError:
        raise RefusedError(
            f"The run was not started: {os.uname().nodename} does not know the user {wanted}: run main.yml."
        ) from None
    if uid == 0:
        raise RefusedError(f"The run was not started: flow_user is {wanted!r}, and nothing is run as root.")
    return wanted


def check_peer(connection: socket.socket, node: Node, processes: Path = Path("/proc")) -> None:
    """Raise RefusedError when the other side is no worker of ours: a run must not ask for runs."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(credentials)
    groups = (processes / str(pid) / "cgroup").read_text(encoding="utf-8")
    if uid != pwd.getpwnam(node.user).pw_uid or not _WORKER.search(groups):
        raise RefusedError("Runs are started for this node's workers only.")


def check_leases(request: Request, locks: Sequence[int], directory: Path = LOCKS) -> None:
    """Raise RefusedError unless the descriptors are those of the locks of the GPUs that are claimed."""
    claimed = [directory / f"{gpu}.lock" for gpu in request.gpus]
    if len(claimed) != len(locks) or not all(map(_is_same, claimed, locks)):
        raise RefusedError(
            f"The run was not started: it claims {', '.join(request.gpus) or 'no GPU'}, and has not leased that; GPUs "
            "are asked for with the job variable gpus alone."
        )


def _is_same(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def closed_devices(node: Node, request: Request, errors: int) -> tuple[str, ...]:
    """Return the device files of the GPUs that a run has not leased; where they cannot be told, its *errors* say so."""
    if not node.close_gpus:
        return ()
    try:
        return tuple(closed_files(request.gpus))
    except UnknownGpuError as error:
        os.write(errors, f"The run can open all GPUs of {os.uname().nodename}: {error}.\n".encode())
        return ()


def prepare(box: Box, environment: dict[str, str]) -> None:
    """Make the run's directories, and the file with its environment."""
    entry = pwd.getpwnam(box.user)
    box.directory.mkdir(mode=0o711)
    for path in (box.home, box.results):
        # Results are the flow's: another run of it may be making their directory at this moment.
        path.mkdir(mode=0o700, exist_ok=True)
        os.chown(path, entry.pw_uid, entry.pw_gid)
    if box.code is not None:
        _copy(box.code, box.copy)
        _give(box.copy, entry.pw_uid, entry.pw_gid)
    box.notes.mkdir(mode=0o700)
    descriptor = os.open(box.notes / "env", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write(environment_file(environment))


def _copy(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise RefusedError(f"The flow's code could not be copied: there is no {source}; deploy the flow again.")
    # Not by cp: most flows are a few files, which are copied here before another program has begun.
    try:
        shutil.copytree(source, target, symlinks=True, copy_function=_copy_file)
    except (shutil.Error, OSError) as error:
        raise OSError(f"the flow's code could not be copied: {error}") from error


def _copy_file(source: str, target: str) -> None:
    with open(source, "rb") as read, open(target, "xb") as written:  # noqa: PTH123
        try:
            # What file systems that can share blocks do at once, however large the file is.
            fcntl.ioctl(written, _FICLONE, read.fileno())
        except OSError:
            shutil.copyfileobj(read, written, _BLOCK_BYTES)
    shutil.copystat(source, target)


def _give(directory: Path, user: int, group: int) -> None:
    """Give a directory to a user, and it last: until then nobody else can change what is in it."""
    for parent, directories, files in os.walk(directory, topdown=False):
        for name in (*directories, *files):
            os.lchown(f"{parent}/{name}", user, group)
    os.lchown(directory, user, group)


def wait(connection: socket.socket, unit: str, process: subprocess.Popen[bytes], counters: Counters) -> int:
    """Wait for the run's end; end it when the worker wants it to, or has gone."""
    watched = os.pidfd_open(process.pid)
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    poll.register(connection, select.POLLIN)
    told, alone, again = False, False, 0.0
    while True:
        # Told again, as the unit may not have been there yet; nor its counters.
        seconds = _COUNTERS_SECONDS if counters.awaited else _AGAIN_SECONDS if told else None
        ready = {descriptor for descriptor, _ in poll.poll(seconds and seconds * 1000)}
        for descriptor in ready - {watched, connection.fileno()}:
            if not counters.read(descriptor):
                poll.unregister(descriptor)
        if watched in ready:
            return process.wait()
        for descriptor in counters.open():
            poll.register(descriptor, select.POLLPRI)
        if connection.fileno() in ready:
            told, again = True, 0.0
            try:
                receive(connection)
            except (ClosedError, OSError, ValueError):
                alone = True
                poll.unregister(connection)
        if told and time.monotonic() >= again:
            if alone:
                _systemctl("kill", "--signal=SIGKILL", unit)
            _systemctl("stop", "--no-block", unit)
            again = time.monotonic() + _AGAIN_SECONDS


def _systemctl(*arguments: str) -> str:
    # The unit may have ended meanwhile, and is gone then.
    command = ["systemctl", *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout


def _clear(instance: str) -> None:
    """End the run of *instance*, ``*`` for all, and remove what is left of it."""
    units = f"flow-run-*-{instance}.service"
    _systemctl("kill", "--signal=SIGKILL", units)
    _systemctl("stop", units)
    _systemctl("reset-failed", units)
    _remove(instance)


def _remove(instance: str) -> None:
    directories = [*(read_node().home / "runs").glob(f"*-{instance}"), *_NOTES.glob(instance)]
    subprocess.run(["rm", "-rf", "--", *directories], check=True)


def serve(connection: socket.socket, instance: str) -> End:
    """Do what is asked for; return how it ended. Raises RefusedError."""
    node = read_node()
    asked, files = receive(connection)
    request = read_request(asked, receive(connection)[0])
    check_peer(connection, node)
    check_leases(request, files[2:])
    user = choose_user(node, request.user)
    try:
        limits = read_limits(request.limits)
    except LimitError as error:
        raise RefusedError(f"The run was not started: {error}") from error
    notes = _NOTES / instance
    box = make_box(node, user, request.run, instance, request.flow, request.directory, notes)
    box = replace(box, gpus=tuple(request.gpus), closed=closed_devices(node, request, files[1]))
    try:
        prepare(box, environment_of(box, request.environment))
    except OSError as error:
        # No fault of the run's: it may be scheduled again, elsewhere.
        raise RefusedError(f"Lost: the run was not started on {os.uname().nodename}: {error}") from error
    label = " ".join(f"Flow run {request.name} of {box.flow}".split())
    command = command_line(box, limits, _UNIT, label, request.command)
    output, errors, *locks = files
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
    for descriptor in (output, errors):
        os.close(descriptor)
    counters = Counters(box.unit, limits)
    status = wait(connection, box.unit, process, counters)
    counters.close()
    shown = ""
    if status:
        shown = _systemctl("show", f"--property={','.join(PROPERTIES)}", box.unit)
        # What waited for the unit may have been killed, and the unit not.
        _systemctl("kill", "--signal=SIGKILL", box.unit)
        _systemctl("stop", box.unit)
        _systemctl("reset-failed", box.unit)
    # Kept until nothing of the run is left.
    for descriptor in locks:
        os.close(descriptor)
    return read_end(shown, limits, status, counters)


def answer(connection: socket.socket, instance: str) -> None:
    """Serve a connection to its end."""
    try:
        end = serve(connection, instance)
    except RefusedError as error:
        end = End(_REFUSED, None, str(error))
    except ClosedError:
        return
    # The worker has gone where it does not take it, and the next one reports the run.
    with contextlib.suppress(OSError):
        send(connection, end.fields())
    # The worker need not wait for that.
    _remove(instance)


def listen(listener: socket.socket, programs: dict[str, int]) -> None:
    """Start a process for each connection, until there are others than *programs* on disk and no run."""
    signal.signal(signal.SIGCHLD, lambda *_: None)
    wakeup, woken = socket.socketpair()
    wakeup.setblocking(False)
    signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    running: dict[int, str] = {}
    started = time.time()
    number = 0
    while running or _programs() == programs:
        ready, _, _ = select.select([listener, woken], [], [], None if running else _IDLE_SECONDS)
        if woken in ready:
            woken.recv(4096)
            _reap(running)
        if listener in ready:
            connection, _ = listener.accept()
            number += 1
            # Unlike those of an earlier broker, whose runs may be about to end.
            instance = f"{started:.0f}.{number}"
            process = os.fork()
            if process == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listener.close()
                if _programs() != programs:
                    _become_newer(connection, instance)
                _serve_and_exit(connection, instance)
            running[process] = instance
            connection.close()


def _become_newer(connection: socket.socket, instance: str) -> None:
    """Serve the connection with the programs on disk, which the other side has as well."""
    os.set_inheritable(connection.fileno(), True)
    os.execv(sys.executable, [*sys.orig_argv, str(connection.fileno()), instance])  # noqa: S606


def _serve_and_exit(connection: socket.socket, instance: str) -> None:
    status = 1
    try:
        answer(connection, instance)
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)


def _reap(running: dict[int, str]) -> None:
    """Clear up after processes that have ended; where one was killed, so is its run."""
    for process in list(running):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended == 0:
            continue
        instance = running.pop(process)
        if status != 0:
            _clear(instance)


def _programs() -> dict[str, int]:
    """Return when each program was last changed; systemd starts the new ones for the next run.

    Compared with each other, and not with the clock, which may be set.
    """
    return {path.name: path.stat().st_mtime_ns for path in Path(__file__).parent.glob("*.py")}


def main() -> None:
    """Clear up after a broker that was killed, and serve systemd's socket, or one connection of an older broker's."""
    if len(sys.argv) > 1:
        descriptor, instance = sys.argv[1:]
        _serve_and_exit(socket.socket(fileno=int(descriptor)), instance)
    programs = _programs()
    _clear("*")
    listen(socket.socket(fileno=_LISTENER), programs)


if __name__ == "__main__":
    main()
