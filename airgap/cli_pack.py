"""The command that packs one flow's environment."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airgap.cli_build import add_build_options, build_options, network_of
from airgap.cli_output import make_progress, say
from airgap.errors import UsageError
from airgap.progress import human_size

if TYPE_CHECKING:
    from airgap.flow_pack import WrittenPack

_DEFAULT_NAME = "packed-env.tar"


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command to *commands*."""
    pack = commands.add_parser(
        "pack-flow",
        help="pack one flow's environment",
        description="Write one flow's packages as packed-env.tar, for a flow that is deployed later than its bundle. "
        "For several targets, write packed-env.<target>.tar for each. What the cluster would refuse is refused here.",
    )
    pack.add_argument("flow", type=Path, metavar="FLOW_DIR", help="directory with the flow's locks")
    add_build_options(pack)
    pack.add_argument("--output", "-o", type=Path, metavar="FILE", help=f"default: {_DEFAULT_NAME} in FLOW_DIR")
    pack.add_argument(
        "--entrypoint",
        metavar="FILE.py:FUNCTION",
        help="what is going to be deployed, to look whether it is there (default: what prefect.yaml deploys)",
    )
    pack.add_argument(
        "--prefect-version",
        metavar="VERSION",
        help="the cluster's Prefect, which the flow's must not be newer than (default: as have.json says)",
    )
    pack.add_argument(
        "--since",
        type=Path,
        metavar="HAVE_JSON",
        help="leave out the packages that the site has, by the have.json that was written there: a thin pack, which "
        "that site alone can deploy; the site's targets are the default then",
    )
    pack.add_argument(
        "--have-signers",
        type=Path,
        metavar="FILE",
        help="demand that have.json is signed by one of these (allowed signers, as ssh-keygen has them)",
    )
    pack.set_defaults(run=_pack)


def _pack(options: argparse.Namespace) -> int:
    from airgap.delta import read_base
    from airgap.flow_pack import PackOptions, pack_flow

    if options.have_signers is not None and options.since is None:
        raise UsageError("--have-signers is about the have.json of a site: name that with --since.")
    base = read_base(options.since, options.have_signers) if options.since is not None else None
    if base is not None and not options.target:
        options.target = list(base.have.targets)
    options.output = options.output or options.flow / _DEFAULT_NAME
    asked = replace(build_options(options, flows=(options.flow.resolve(),)), base=base)
    packs, choice = pack_flow(
        asked,
        PackOptions(options.entrypoint, options.prefect_version),
        network_of(asked),
        make_progress(options.quiet),
        lambda choice: say(options.quiet, str(choice)),
    )
    for pack in packs:
        say(options.quiet, _summary(pack))
    say(options.quiet, str(choice))
    return 0


def _summary(pack: WrittenPack) -> str:
    """Return one line about a pack: where, how large, for whom, and whether the site has to add to it."""
    packages = len(pack.environment.files)
    text = f"{pack.path}: {human_size(pack.path.stat().st_size)}, {packages} packages for {pack.environment.target}"
    if not pack.left_out:
        return f"{text}."
    return (
        f"{text}, of which {len(pack.left_out)} are taken from the site's mirror: a thin pack, which pixi-unpack "
        "cannot open."
    )
