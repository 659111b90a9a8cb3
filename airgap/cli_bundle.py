"""The commands that look at a bundle: verify, inspect."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from airgap.cli_output import say


def add_commands(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the commands to *commands*."""
    verify = commands.add_parser(
        "verify", help="check every file of a bundle", description="Check every file of a bundle."
    )
    verify.add_argument("bundle", type=Path, help="archive, or directory where it was unpacked")
    verify.add_argument("--quiet", "-q", action="store_true", help="print errors only")
    verify.set_defaults(run=_verify)
    inspect = commands.add_parser(
        "inspect", help="check a bundle and say what it holds", description="Say what a bundle holds."
    )
    inspect.add_argument("bundle", type=Path, help="archive, or directory where it was unpacked")
    inspect.set_defaults(run=_inspect)


def _verify(options: argparse.Namespace) -> int:
    from airgap.verify import verify

    receipt = verify(options.bundle).receipt
    say(options.quiet, str(receipt))
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from airgap.inspection import print_bundle
    from airgap.verify import verify

    print_bundle(verify(options.bundle))
    return 0
