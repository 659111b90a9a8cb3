"""One machine: a systemd-nspawn container with its own systemd, on an overlay of a base."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import base
import control_groups
from network import Network
from places import remove_tree
from process import TestbedError, run

_STOP_SECONDS = 40


@dataclass(frozen=True)
class Machine:
    """A machine of a cluster."""

    name: str
    release: str
    number: int
    """In the subnet."""
    directory: Path
    """On the host; everything of the machine is below it."""
    disk: str | None = None
    """Size of its own disk, as truncate(1) takes it; None: what the host has."""

    @property
    def root(self) -> Path:
        """Where its root file system is mounted on the host."""
        return self.directory / "root"

    @property
    def log(self) -> Path:
        """What its console printed."""
        return self.directory / "console.log"

    @property
    def unit(self) -> str:
        """Name that is unique on the host."""
        return f"pag-{self.directory.parent.name}-{self.name}"

    @property
    def interface(self) -> str:
        """Its name for its place on the network."""
        return "host0"

    def create(self) -> None:
        """Make the root file system."""
        lower = base.ensure(self.release)
        self.root.mkdir(parents=True)
        storage = self.directory / "storage"
        storage.mkdir()
        self.make_storage(storage)
        for part in ("upper", "work"):
            (storage / part).mkdir()
        # volatile: no fsync reaches the disk. The machines are thrown away, so nothing has to survive the host.
        options = f"lowerdir={lower},upperdir={storage / 'upper'},workdir={storage / 'work'},volatile"
        run(["mount", "-t", "overlay", f"pag-{self.name}", "-o", options, self.root])

    def make_storage(self, storage: Path) -> None:
        """Give the machine a disk of its own, if it is to have one."""
        if self.disk:
            image = self.directory / "disk.img"
            run(["truncate", f"--size={self.disk}", image])
            run(["mkfs.ext4", "-q", "-m", "0", image])
            run(["mount", "-o", "loop", image, storage])

    def configure(self, network: Network, hosts: str, authorized_key: str) -> None:
        """Write what makes this machine itself: name, addresses, keys."""
        root = self.root
        (root / "etc/hostname").write_text(f"{self.name}\n")
        (root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
        self.write_hosts(hosts)
        # Sorts before the distribution's 80-container-host0.network, which would ask for an address by DHCP.
        (root / f"etc/systemd/network/10-{self.interface}.network").write_text(
            f"[Match]\nName={self.interface}\n\n"
            "[Network]\nDHCP=no\nIPv6AcceptRA=no\nLLMNR=no\n"
            f"Address={network.address(self.number)}/24\nAddress={network.address6(self.number)}/64\n"
            f"Gateway={network.address(1)}\nGateway={network.address6(1)}\n"
        )
        resolver = root / "etc/resolv.conf"
        resolver.unlink(missing_ok=True)
        resolver.write_text(f"nameserver {network.address(1)}\n")
        run(
            [
                "ssh-keygen",
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-C",
                self.name,
                "-f",
                root / "etc/ssh/ssh_host_ed25519_key",
            ]
        )
        self.write_for_user(".ssh/authorized_keys", authorized_key)

    def write_hosts(self, hosts: str) -> None:
        """Write /etc/hosts; the machine's own name is its address on the network, as for its neighbours."""
        # In place: a running machine has the file open, and must see the change.
        (self.root / "etc/hosts").write_text(f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n{hosts}")

    def write_for_user(self, path: str, content: str) -> None:
        """Write a private file below the user's home directory."""
        home = self.root / "home" / base.USER
        owner = home.stat()
        file = home / path
        file.parent.mkdir(mode=0o700, exist_ok=True)
        file.write_text(content)
        file.chmod(0o600)
        for changed in (file.parent, file):
            os.chown(changed, owner.st_uid, owner.st_gid)

    def start(self, network: Network) -> None:
        """Boot; a machine that runs is left alone."""
        if self.processes():
            return
        command = self.command(network)
        environment = dict(os.environ)
        environment["SYSTEMD_NSPAWN_TMPFS_TMP"] = "0"  # /tmp on the disk, as on a server, not in memory
        if not Path("/sys/fs/cgroup/cgroup.controllers").exists() and self.release != "debian-12":
            environment["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] = "1"  # newer systemd does not boot on the old hierarchy
        if Path("/run/systemd/system").exists():
            # Below the host's systemd the machine must be a unit of its own, or it ends with the login session.
            passed = [
                f"--setenv={name}={environment[name]}" for name in environment if name.startswith("SYSTEMD_NSPAWN")
            ]
            scope = [
                "--quiet",
                "--collect",
                f"--unit={self.unit}",
                "--property=Delegate=yes",
                "--property=KillMode=mixed",
            ]
            run(["systemd-run", *scope, *passed, f"--property=StandardOutput=append:{self.log}", "--", *command])
            return
        with self.log.open("a") as log:
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                preexec_fn=functools.partial(control_groups.enter, self.unit),  # noqa: PLW1509, this program has no threads
            )

    def command(self, network: Network) -> list[str]:
        """Return the command that runs it."""
        # The kernel removes a dead machine's link when it comes to it, and until then the name is taken.
        run(["ip", "link", "delete", "dev", f"vb-{self.unit}"], check=False)
        return [
            "systemd-nspawn",
            "--quiet",
            f"--directory={self.root}",
            f"--machine={self.unit}",
            f"--hostname={self.name}",
            "--register=no",
            "--keep-unit",
            "--link-journal=no",
            "--resolv-conf=off",
            "--timezone=off",
            f"--network-bridge={network.bridge}",
            "--boot",
        ]

    def request_stop(self) -> None:
        """Press the power button."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)  # nspawn passes it on as the request to power off

    def wait_stopped(self) -> None:
        """Wait until it is off; pull the plug when that takes too long."""
        deadline = time.monotonic() + _STOP_SECONDS
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.1)
        self.kill()

    def kill(self) -> None:
        """Pull the plug."""
        # What runs inside ends with the container's first process, so nspawn's children go first.
        for process in self.processes():
            for victim in [*_children(process), process]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while self.processes():
            if time.monotonic() > deadline:
                raise TestbedError(f"{self.unit} does not end: see the processes {self.processes()}.")
            time.sleep(0.05)
        control_groups.remove(self.unit)

    def processes(self) -> list[int]:
        """Return the processes that run this machine."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if self.is_own(arguments):
                found.append(int(entry.name))
        return found

    def is_own(self, arguments: list[str]) -> bool:
        """Whether a process with these *arguments* runs this machine; its root is nobody else's."""
        return arguments[0].endswith("systemd-nspawn") and f"--directory={self.root}" in arguments

    def remove(self) -> None:
        """Remove every trace of the machine."""
        self.kill()
        remove_tree(self.directory)


def _children(process: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def required_programs() -> list[str]:
    """Return the programs that are missing on this host."""
    wanted = ("debootstrap", "systemd-nspawn", "nft", "ip", "ssh", "ssh-keygen", "mkfs.ext4")
    return [program for program in wanted if shutil.which(program) is None]
