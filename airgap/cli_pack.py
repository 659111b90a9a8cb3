"""The command that packs one flow's environment."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from airgap.cli_build import add_build_options, build_options
from airgap.cli_output import make_progress, say
from airgap.errors import UsageError
from airgap.progress import human_size


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command to *commands*."""
    pack = commands.add_parser(
        "pack-flow",
        help="pack one flow's environment",
        description="Write one flow's packages as packed-env.tar, for a flow that is deployed later than its bundle.",
    )
    pack.add_argument("flow", type=Path, metavar="FLOW_DIR", help="directory with the flow's locks")
    add_build_options(pack)
    pack.add_argument("--output", "-o", type=Path, metavar="FILE", help="default: packed-env.tar in FLOW_DIR")
    pack.set_defaults(run=_pack)


def _pack(options: argparse.Namespace) -> int:
    from airgap.flow_pack import pack_flow
    from airgap.network import pip_network

    options.output = options.output or options.flow / "packed-env.tar"
    asked = build_options(options, flows=(options.flow.resolve(),))
    if len(asked.targets) != 1:
        raise UsageError("A pack is for one target: give --target once, and another --output for each further pack.")
    environment, choice = pack_flow(
        asked, pip_network(), make_progress(options.quiet), lambda choice: say(options.quiet, str(choice))
    )
    size = human_size(asked.output.stat().st_size)
    say(options.quiet, f"{asked.output}: {size}, {len(environment.files)} packages. {choice}")
    return 0
