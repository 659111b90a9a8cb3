#!/usr/bin/env python3
"""Build a bundle and carry it to a cluster's controller, as the README's first three sections do."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import channel_checkout
import older_checkout
from guide import CONTROLLER, Guide
from machines import Machines, unprivileged

REPOSITORY = Path(__file__).resolve().parent.parent.parent
BUNDLE_NAME = "pag-software-bundle.tar.gz"


def build(repository: Path, output: Path, arguments: Sequence[str]) -> int:
    """Build a bundle with ``build-bundle.py`` of *repository* and its *arguments*, and return its exit code."""
    output.parent.mkdir(parents=True, exist_ok=True)
    if user := os.environ.get("SUDO_USER"):
        shutil.chown(output.parent, user)
    command: list[str | Path] = ["python3", repository / "build-bundle.py", "--quiet", "--output", output, *arguments]
    # Not with the tests' own environment: the operator's python3 is the system's.
    path = os.pathsep.join(
        entry for entry in os.environ["PATH"].split(os.pathsep) if Path(entry) != Path(sys.executable).parent
    )
    # There, because Python would take the modules of another checkout that this is started in.
    return subprocess.run(
        unprivileged(command), cwd=repository, stdin=subprocess.DEVNULL, env={**os.environ, "PATH": path}
    ).returncode


def main(arguments: Sequence[str]) -> int:
    """Build with the arguments that are not ours, and follow the guide until Ansible is on the controller."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--own-channel", action="store_true", help="environments of the tests' own conda channel")
    parser.add_argument("--older-prefect", action="store_true", help="environments with an older Prefect, to upgrade")
    options, build_arguments = parser.parse_known_args(arguments)
    machines = Machines(options.cluster)
    directory = machines.directory / "bundle"
    directory.mkdir(exist_ok=True)
    repository = REPOSITORY
    if options.own_channel:
        build_arguments += channel_checkout.make(directory)
        repository = channel_checkout.checkout(directory)
    elif options.older_prefect:
        repository = older_checkout.make(directory)
    bundle = directory / BUNDLE_NAME
    if build(repository, bundle, build_arguments) != 0:
        return 1
    machines.copy([bundle], CONTROLLER, "")
    guide = Guide(machines)
    for block in ("controller-install", "controller-configure"):
        outcome = guide.run(block)
        if outcome.returncode != 0:
            print(outcome.output[-5000:], file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
