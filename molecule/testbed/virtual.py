"""A virtual machine: a machine with a kernel, a disk and control groups of its own, where limits are enforced.

KVM runs it where the host has that; elsewhere it is emulated, which is slower.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

import base
from machine import Machine
from network import Network
from places import CACHE
from process import TestbedError, run

_PROGRAM = "qemu-system-x86_64"
_MEMORY = "2G"
_PROCESSORS = 2
_DISK = "8G"


@dataclass(frozen=True)
class VirtualMachine(Machine):
    """A virtual machine of a cluster. Its root is on the host until it boots for the first time, then in its disk."""

    @property
    def interface(self) -> str:
        """Its name for its place on the network."""
        return "eth0"

    @property
    def image(self) -> Path:
        """Its disk."""
        return self.directory / "disk.ext4"

    @property
    def monitor(self) -> Path:
        """The socket where the emulator takes commands."""
        return self.directory / "monitor"

    def make_storage(self, storage: Path) -> None:
        """Leave what is on the host to the host: its disk is made when it boots."""

    def write_hosts(self, hosts: str) -> None:
        """Write /etc/hosts, which only a machine that has not run yet can be given."""
        if self.image.exists():
            raise TestbedError(
                f"{self.name} is a virtual machine, and hears of no others later: make all of them at once."
            )
        super().write_hosts(hosts)

    def start(self, network: Network) -> None:
        """Boot; a machine that runs is left alone."""
        if shutil.which(_PROGRAM) is None:
            raise TestbedError(f"{_PROGRAM} is not installed: install qemu-system-x86.")
        if not self.image.exists():
            unfinished = self.image.with_suffix(".part")
            unfinished.unlink(missing_ok=True)
            run(["mke2fs", "-q", "-t", "ext4", "-d", self.root, unfinished, self.disk or _DISK])
            unfinished.rename(self.image)
        super().start(network)

    def command(self, network: Network) -> list[str]:
        """Return the command that runs it."""
        # Run when the kernel has made the interface, which goes when the emulator does, however it ends.
        attach = self.directory / "attach"
        attach.write_text(f'#!/bin/sh\nip link set dev "$1" master {network.bridge} up\n')
        attach.chmod(0o755)
        return [
            _PROGRAM,
            *("-name", self.unit),
            *("-accel", accelerator(), "-cpu", "max", "-smp", str(_PROCESSORS), "-m", _MEMORY),
            *("-nodefaults", "-display", "none"),
            *("-chardev", f"file,id=console,path={self.log},append=on", "-serial", "chardev:console"),
            *("-qmp", f"unix:{self.monitor},server=on,wait=off"),
            # Nothing of it has to survive the host.
            *("-drive", f"file={self.image},if=virtio,format=raw,cache=unsafe"),
            *("-netdev", f"tap,id=net,ifname=pagvm%d,script={attach},downscript=no"),
            *("-device", f"virtio-net-pci,netdev=net,mac={hardware_address(self.unit)},romfile="),
            *("-kernel", str(self._boot_file("vmlinuz")), "-initrd", str(self._boot_file("initrd.img"))),
            *("-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0 panic=10"),
        ]

    def request_stop(self) -> None:
        """Press the power button."""
        # It may be off already.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(5)
            monitor.connect(str(self.monitor))
            with monitor.makefile("rw") as stream:
                stream.readline()  # what it is
                for command in ("qmp_capabilities", "system_powerdown"):
                    stream.write(json.dumps({"execute": command}) + "\n")
                    stream.flush()
                    stream.readline()

    def is_own(self, arguments: list[str]) -> bool:
        """Whether a process with these *arguments* runs this machine."""
        return arguments[0].endswith(_PROGRAM) and any(entry.startswith(f"file={self.image},") for entry in arguments)

    def _boot_file(self, name: str) -> Path:
        found = sorted(base.ensure(self.release).glob(f"boot/{name}-*"))
        if not found:
            raise TestbedError(f"{self.release} has no {name}: remove it below {CACHE}, so that it is made anew.")
        return found[-1]


def machine_of(name: str, release: str, number: int, directory: Path, disk: str | None) -> Machine:
    """Return a machine of the kind that runs *release*."""
    kind = Machine if base.RELEASES[release].kernel is None else VirtualMachine
    return kind(name, release, number, directory, disk)


def machine_in(directory: Path) -> Machine:
    """Return the machine that has *directory*, whatever is recorded of it; to remove it."""
    machine = VirtualMachine(directory.name, "", 0, directory)
    # Without a disk it has never run.
    return machine if machine.image.exists() else Machine(directory.name, "", 0, directory)


def accelerator(device: Path = Path("/dev/kvm"), processors: Path = Path("/proc/cpuinfo")) -> str:
    """Return what runs virtual machines here: ``kvm``, or ``tcg``, which emulates.

    Hosts that are virtual machines may have the device without the processor's part of it, and then Debian's own
    kernel does not boot.
    """
    has_it = re.search(r"^flags\s*:.*\b(vmx|svm)\b", processors.read_text(), re.MULTILINE) is not None
    return "kvm" if has_it and os.access(device, os.R_OK | os.W_OK) else "tcg"


def hardware_address(unit: str) -> str:
    """Return an Ethernet address for *unit*, from those that anyone may give themselves."""
    digest = hashlib.sha256(unit.encode()).hexdigest()
    return ":".join(["52:54:00", digest[:2], digest[2:4], digest[4:6]])
