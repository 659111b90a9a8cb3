"""A cluster of machines: made, found again, and taken down by its name."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import base
import limits
import network as networks
from machine import Machine
from network import Network
from places import STATE, locked, remove_tree
from process import TestbedError, run
from virtual import machine_in, machine_of

# A machine's own network-online.target gives up after 120 s, and then the machine is up all the same.
_BOOT_SECONDS = 180
_KEY = "id_ed25519"


@dataclass(frozen=True)
class Cluster:
    """Machines on one network."""

    name: str
    network: Network
    machines: tuple[Machine, ...]

    @property
    def directory(self) -> Path:
        """Where its records are on the host."""
        return directory_of(self.name)

    @property
    def ssh_config(self) -> Path:
        """For ``ssh -F``: knows the machines by name."""
        return self.directory / "ssh_config"

    def machine(self, name: str) -> Machine:
        """Return the machine called *name*; the part ``pag-`` may be left out."""
        for machine in self.machines:
            if machine.name in {name, f"pag-{name}"}:
                return machine
        names = ", ".join(machine.name for machine in self.machines)
        raise TestbedError(f"The cluster {self.name} has no machine {name}: it has {names}.")

    def addresses(self) -> dict[str, str]:
        """Return each machine's IPv4 address."""
        return {machine.name: self.network.address(machine.number) for machine in self.machines}

    def hosts(self) -> str:
        """Return the lines of /etc/hosts about the machines."""
        return "".join(f"{self.network.address(machine.number)} {machine.name}\n" for machine in self.machines)

    def save(self) -> None:
        """Write down what has to be known to find the cluster again, and how to reach its machines."""
        record = {
            "network": self.network.number,
            "machines": [
                {"name": machine.name, "release": machine.release, "number": machine.number, "disk": machine.disk}
                for machine in self.machines
            ],
        }
        (self.directory / "cluster.json").write_text(json.dumps(record, indent=1) + "\n")
        known_hosts = self.directory / "known_hosts"
        known_hosts.write_text(self._known_hosts())
        common = (
            f"  User {base.USER}\n  IdentityFile {self.directory / _KEY}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {known_hosts}\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n"
            "  ControlMaster no\n  ServerAliveInterval 15\n"
        )
        self.ssh_config.write_text(
            "".join(
                f"Host {machine.name}\n  HostName {self.network.address(machine.number)}\n{common}"
                for machine in self.machines
            )
        )

    def _known_hosts(self) -> str:
        lines = []
        for machine in self.machines:
            key = machine.root / "etc/ssh/ssh_host_ed25519_key.pub"
            if key.exists():
                names = f"{machine.name},{self.network.address(machine.number)},{self.network.address6(machine.number)}"
                lines.append(f"{names} {' '.join(key.read_text().split()[:2])}\n")
        return "".join(lines)

    def introduce(self) -> None:
        """Tell every machine about all of them, and the controllers the keys."""
        key = (self.directory / _KEY).read_text()
        for machine in self.machines:
            machine.write_hosts(self.hosts())
            if "controller" in machine.name:
                (machine.root / "etc/ssh/ssh_known_hosts").write_text(self._known_hosts())
                machine.write_for_user(f".ssh/{_KEY}", key)

    def ssh(self, machine: str, *command: str, options: Sequence[str] = ()) -> list[str]:
        """Return the arguments of ssh that run *command* on *machine*."""
        return ["ssh", "-F", str(self.ssh_config), *options, self.machine(machine).name, *command]

    def cut(self, one: str, other: str) -> None:
        """Cut the network between the machines *one* and *other*."""
        self.network.cut(self.machine(one).number, self.machine(other).number)

    def start(self, names: Sequence[str] = ()) -> None:
        """Boot the machines with these names (all of them when there are none) and wait until they are up."""
        chosen = [self.machine(name) for name in names] or list(self.machines)
        for machine in chosen:
            machine.start(self.network)
        deadline = time.monotonic() + _BOOT_SECONDS
        for machine in chosen:
            self._wait(machine, deadline)

    def stop(self, names: Sequence[str] = ()) -> None:
        """Shut the machines with these names down (all of them when there are none), at the same time."""
        chosen = [self.machine(name) for name in names] or list(self.machines)
        for machine in chosen:
            machine.request_stop()
        for machine in chosen:
            machine.wait_stopped()

    def _wait(self, machine: Machine, deadline: float) -> None:
        # Asked again and again rather than with --wait: a connection from before the network was set up may hang.
        options = ["ConnectTimeout=2", "BatchMode=yes", "ServerAliveInterval=2", "ServerAliveCountMax=3"]
        probe = self.ssh(
            machine.name,
            "systemctl is-system-running; systemctl list-jobs --no-legend --no-pager",
            options=[part for option in options for part in ("-o", option)],
        )
        while True:
            finished = run(probe, check=False)
            state, _, jobs = finished.stdout.partition("\n")
            # Several come up in "degraded" for want of something the kernel does not have; that is no reason to stop.
            if state in {"running", "degraded"}:
                return
            if not machine.processes():
                raise TestbedError(f"{machine.name} ended while it booted: see {machine.log}.")
            if time.monotonic() > deadline:
                known = " ".join([state or "it cannot be reached", *jobs.split(), finished.stderr.strip()]).strip()
                raise TestbedError(
                    f"{machine.name} did not boot within {_BOOT_SECONDS} s ({known}): see {machine.log}."
                )
            time.sleep(0.2)


def directory_of(name: str) -> Path:
    """Return where the cluster called *name* keeps its records; raises TestbedError when that is no name."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", name):
        raise TestbedError(f"{name!r} is no name of a cluster: use lower-case letters, digits and hyphens.")
    return STATE / name


def create(name: str, wanted: Sequence[str]) -> Cluster:
    """Make the cluster *name* anew with the *wanted* machines (``NAME[:RELEASE][:disk=SIZE]``) and boot it."""
    remove(name)
    with locked("networks"):
        # The record is written under the lock, so two clusters that are made at once see each other's choice.
        cluster = Cluster(name, networks.choose(name, _taken_numbers()), ())
        cluster.directory.mkdir(parents=True, mode=0o755)
        cluster.save()
        cluster.network.create()
        limits.make_room()
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"pag {name}", "-f", cluster.directory / _KEY])
    return add(cluster, wanted)


def add(cluster: Cluster, wanted: Sequence[str]) -> Cluster:
    """Make the *wanted* machines, boot them, and return the cluster with them."""
    first = max((machine.number for machine in cluster.machines), default=9) + 1
    made = [_parse(cluster, text, first + index) for index, text in enumerate(wanted)]
    for machine in made:
        if machine.name in {other.name for other in cluster.machines}:
            raise TestbedError(f"The cluster {cluster.name} has a machine {machine.name} already.")
    for release in sorted({machine.release for machine in made}):
        base.ensure(release)
    cluster = replace(cluster, machines=(*cluster.machines, *made))
    cluster.save()  # before anything is mounted or started, so that a run cut short here is cleaned up by name
    key = (cluster.directory / f"{_KEY}.pub").read_text()
    for machine in made:
        machine.create()
        machine.configure(cluster.network, cluster.hosts(), key)
    cluster.save()  # the machines have their host keys now
    cluster.introduce()
    cluster.start([machine.name for machine in made])
    return cluster


def discard(cluster: Cluster, names: Sequence[str]) -> Cluster:
    """Remove every trace of the machines with these names, and return the cluster without them."""
    gone = {cluster.machine(name) for name in names}
    for machine in gone:
        machine.remove()
    cluster = replace(cluster, machines=tuple(machine for machine in cluster.machines if machine not in gone))
    cluster.save()
    cluster.introduce()
    return cluster


def load(name: str) -> Cluster:
    """Return the cluster called *name*; raises TestbedError when there is none."""
    directory = directory_of(name)
    try:
        record = json.loads((directory / "cluster.json").read_text())
    except (OSError, ValueError):
        raise TestbedError(f"There is no cluster {name}: make it with up.") from None
    machines = tuple(
        machine_of(entry["name"], entry["release"], entry["number"], directory / entry["name"], entry["disk"])
        for entry in record["machines"]
    )
    return Cluster(name, Network(name, record["network"]), machines)


def remove(name: str) -> None:
    """Remove every trace of the cluster called *name*; one that is not there is no error."""
    directory = directory_of(name)
    if directory.exists():
        # By what is there and not by the record, which a run cut short may not have written.
        for entry in directory.iterdir():
            if entry.is_dir():
                machine_in(entry).remove()
    networks.remove(name)
    with locked("networks"):
        remove_tree(directory)
        limits.give_back()


def _taken_numbers() -> set[int]:
    numbers = set()
    for file in STATE.glob("*/cluster.json"):
        try:
            numbers.add(int(json.loads(file.read_text())["network"]))
        except (OSError, ValueError, KeyError):
            continue
    return numbers


def _parse(cluster: Cluster, text: str, number: int) -> Machine:
    name, *options = text.split(":")
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,40}", name):
        raise TestbedError(f"{name!r} is no name of a machine: use lower-case letters, digits and hyphens.")
    release, disk = "debian-12", None
    for option in options:
        if option.startswith("disk="):
            disk = option.removeprefix("disk=")
        elif option in base.RELEASES:
            release = option
        else:
            raise TestbedError(f"{text}: {option!r} is neither a release ({', '.join(base.RELEASES)}) nor disk=SIZE.")
    return machine_of(name, release, number, cluster.directory / name, disk)
