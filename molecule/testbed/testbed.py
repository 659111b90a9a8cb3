#!/usr/bin/env python3
"""Real machines for the demo and the tests, on a network that leads nowhere."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

import base
import cluster as clusters
from machine import required_programs
from process import TestbedError

DEFAULT_MACHINES = ("pag-controller", "pag-server", "pag-worker-1", "pag-worker-2")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("--cluster", required=True, help="name of the cluster")
        return added

    shape = "NAME[:RELEASE][:disk=SIZE], for example pag-worker-3:debian-13"
    up = command("up", "Make the cluster anew and boot its machines.")
    up.add_argument("machines", nargs="*", default=list(DEFAULT_MACHINES), metavar="MACHINE", help=shape)
    added = command("add", "Add machines to a cluster that is up.")
    added.add_argument("machines", nargs="+", metavar="MACHINE", help=shape)
    command("down", "Remove every trace of the cluster.")
    command("remove", "Remove every trace of machines.").add_argument("machines", nargs="+", metavar="MACHINE")
    for name, text in (("start", "Boot machines that were stopped."), ("stop", "Shut machines down.")):
        command(name, text).add_argument("machines", nargs="*", metavar="MACHINE", help="default: all")
    command("kill", "Pull machines' plugs.").add_argument("machines", nargs="+", metavar="MACHINE")
    command("cut", "Let nothing pass between two machines.").add_argument("machines", nargs=2, metavar="MACHINE")
    command("mend", "Let everything pass again that was cut.")
    command("addresses", "Print the machines' addresses as JSON.")
    command("ssh-config", "Print the path of a configuration file for ssh -F.")
    command("traffic", "Print how many bytes the machines have received over the network.")
    command("escapes", "Print how many packets tried to leave; who and where to on standard error.")
    ssh = command("ssh", "Run a command on a machine, or open a shell.")
    ssh.add_argument("machine", metavar="MACHINE")
    ssh.add_argument("arguments", nargs=argparse.REMAINDER, metavar="COMMAND")
    scp = command("scp", "Copy files; MACHINE:PATH is a path on a machine.")
    scp.add_argument("arguments", nargs=argparse.REMAINDER, metavar="PATH")
    bases = commands.add_parser("base", help="Make the root file systems that machines are made of.")
    bases.add_argument("releases", nargs="*", default=["debian-12"], metavar="RELEASE")
    return parser


def main(arguments: list[str]) -> int:
    """Run the command that *arguments* name and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise TestbedError("Machines need root: call this with sudo.")
    missing = required_programs()
    if missing:
        raise TestbedError(f"Missing on this host: {', '.join(missing)}.")
    match options.command:
        case "base":
            for release in options.releases:
                base.ensure(release)
            return 0
        case "up":
            clusters.create(options.cluster, options.machines or DEFAULT_MACHINES)
            return 0
        case "down":
            clusters.remove(options.cluster)
            return 0
    cluster = clusters.load(options.cluster)
    match options.command:
        case "add":
            clusters.add(cluster, options.machines)
        case "remove":
            clusters.discard(cluster, options.machines)
        case "start":
            cluster.start(options.machines)
        case "stop":
            cluster.stop(options.machines)
        case "kill":
            for name in options.machines:
                cluster.machine(name).kill()
        case "cut":
            cluster.cut(*options.machines)
        case "mend":
            cluster.network.mend()
        case "addresses":
            print(json.dumps(cluster.addresses()))
        case "ssh-config":
            print(cluster.ssh_config)
        case "traffic":
            print(cluster.network.received())
        case "escapes":
            print(cluster.network.escapes())
            for line in cluster.network.escaped():
                print(line, file=sys.stderr)
        case "ssh":
            return subprocess.run(cluster.ssh(options.machine, *options.arguments)).returncode
        case "scp":
            return subprocess.run(["scp", "-q", "-F", str(cluster.ssh_config), *options.arguments]).returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
