#!/usr/bin/env python3
"""Destroy a machine of a cluster and put an empty one in its place, with its name and, if wanted, its address."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

import cluster as clusters
from process import TestbedError


def substitute(cluster: clusters.Cluster, name: str, *, new_address: bool = False) -> None:
    """Remove every trace of the machine *name*, and boot another one of that name and release.

    Its host key is new, and the controllers are told.
    """
    lost = cluster.machine(name)
    lost.kill()
    cluster = clusters.discard(cluster, [lost.name])
    number = max(machine.number for machine in (*cluster.machines, lost)) + 1 if new_address else lost.number
    made = replace(lost, number=number)
    cluster = replace(cluster, machines=(*cluster.machines, made))
    cluster.save()  # before anything is mounted or started, so that a run cut short here is cleaned up by name
    made.create()
    key = (cluster.directory / "id_ed25519.pub").read_text()
    made.configure(cluster.network, cluster.hosts(), key)
    cluster.save()
    cluster.introduce()
    cluster.start([made.name])


def main(arguments: Sequence[str]) -> int:
    """Replace a machine; for the checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--new-address", action="store_true", help="the new machine has another address")
    parser.add_argument("machine")
    options = parser.parse_args(arguments)
    try:
        substitute(clusters.load(options.cluster), options.machine, new_address=options.new_address)
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
