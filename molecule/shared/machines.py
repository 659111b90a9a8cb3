"""The testbed's machines, as the demo and the tests use them: through its command line and SSH."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_TESTBED = Path(__file__).resolve().parent.parent / "testbed" / "testbed.py"


class MachinesError(Exception):
    """A machine did not do what it was told; the message says what it printed."""


@dataclass(frozen=True)
class Machines:
    """The machines of one cluster."""

    cluster: str

    def testbed(self, command: str, *arguments: str) -> str:
        """Run a command of the testbed on this cluster and return what it printed."""
        finished = subprocess.run(
            [sys.executable, _TESTBED, command, "--cluster", self.cluster, *arguments], capture_output=True, text=True
        )
        if finished.returncode != 0:
            raise MachinesError(finished.stderr.strip())
        return finished.stdout.strip()

    def exist(self) -> bool:
        """Whether the cluster has been made."""
        with contextlib.suppress(MachinesError):
            return bool(self.addresses())
        return False

    def addresses(self) -> dict[str, str]:
        """Return each machine's IPv4 address."""
        return dict(json.loads(self.testbed("addresses")))

    def traffic(self) -> int:
        """Return how many bytes the running machines have received."""
        return int(self.testbed("traffic"))

    def escapes(self) -> int:
        """Return how many packets tried to leave the network."""
        return int(self.testbed("escapes"))

    def escaped(self) -> str:
        """Return who tried to reach what, for people to read."""
        return subprocess.run(
            [sys.executable, _TESTBED, "escapes", "--cluster", self.cluster], capture_output=True, text=True
        ).stderr

    @cached_property
    def ssh_config(self) -> str:
        """Path of a configuration for ``ssh -F``."""
        return self.testbed("ssh-config")

    @property
    def directory(self) -> Path:
        """Where the cluster's records are; whatever is put there goes with the cluster."""
        return Path(self.ssh_config).parent

    def ssh(self, machine: str, command: str, *, stdin: str | None = None, check: bool = True) -> str:
        """Run a shell command on a machine and return its output; both its streams are in a failure's message."""
        finished = subprocess.run(
            ["ssh", "-F", self.ssh_config, machine, command],
            capture_output=True,
            text=True,
            **({"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}),
        )
        if check and finished.returncode != 0:
            raise MachinesError(f"On {machine}, {command!r} failed: {finished.stdout}{finished.stderr}".strip())
        return finished.stdout

    def write(self, machine: str, path: str, content: str) -> None:
        """Write a private file on a machine; the content travels over standard input and is in no process list."""
        self.ssh(machine, f"umask 077 && cat > {path}", stdin=content)

    def copy(self, sources: Sequence[Path], machine: str, destination: str) -> None:
        """Copy files to a machine with scp."""
        command = ["scp", "-q", "-r", "-F", self.ssh_config, *map(str, sources), f"{machine}:{destination}"]
        finished = subprocess.run(command, capture_output=True, text=True)
        if finished.returncode != 0:
            raise MachinesError(f"{sources[0]} could not be copied to {machine}: {finished.stderr.strip()}")

    @contextlib.contextmanager
    def tunnel(self, machine: str = "pag-controller", port: int = 4200) -> Iterator[int]:
        """Forward a free local port to *port* on the machine's own localhost, as an operator does from a desk."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            local = probe.getsockname()[1]
        options = ["-o", "ExitOnForwardFailure=yes", "-N", "-L", f"127.0.0.1:{local}:localhost:{port}"]
        process = subprocess.Popen(["ssh", "-F", self.ssh_config, *options, machine], stdin=subprocess.DEVNULL)
        try:
            _wait_for_port(local, process)
            yield local
        finally:
            process.terminate()
            process.wait()


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise MachinesError("The tunnel to the controller could not be opened.")


def unprivileged(command: Sequence[str | Path]) -> list[str]:
    """Return the command as the user runs it who called sudo, if anyone did: building a bundle needs no root."""
    user = os.environ.get("SUDO_USER")
    if os.geteuid() == 0 and user and user != "root" and shutil.which("runuser"):
        home = pwd.getpwnam(user).pw_dir
        return ["runuser", "-u", user, "--", "env", "-u", "XDG_CACHE_HOME", f"HOME={home}", *map(str, command)]
    return [str(part) for part in command]
