"""The commands that look at bundles: verify, inspect, diff."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from airgap.cli_output import say
from airgap.signature import site_signers
from airgap.verify import add_arguments, remark, verify


def add_commands(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the commands to *commands*."""
    verify = commands.add_parser(
        "verify", help="check every file of a bundle", description="Check every file of a bundle."
    )
    add_arguments(verify)
    verify.add_argument("--quiet", "-q", action="store_true", help="print errors only")
    verify.set_defaults(run=_verify)
    inspect = commands.add_parser(
        "inspect", help="check a bundle and say what it holds", description="Say what a bundle holds."
    )
    add_arguments(inspect)
    inspect.add_argument(
        "--licences", action="store_true", help="list the packages with their licences, and who uses them"
    )
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.set_defaults(run=_inspect)
    diff = commands.add_parser(
        "diff",
        help="say what changes from one bundle to another",
        description="Say what enters, leaves and changes version from one bundle to another, for a change board. Reads "
        "the manifests only, and verifies nothing.",
    )
    places = "archive, directory where it was unpacked or its volumes are, or manifest.json"
    diff.add_argument("old", type=Path, metavar="OLD", help=f"the bundle before: {places}")
    diff.add_argument("new", type=Path, metavar="NEW", help="the bundle after")
    diff.add_argument("--format", choices=("text", "json", "markdown"), default="text", help="default: %(default)s")
    diff.set_defaults(run=_diff)


def _verify(options: argparse.Namespace) -> int:
    bundle = verify(*options.bundle, signers=options.allowed_signers or site_signers())
    say(options.quiet, str(bundle.receipt))
    if bundle.compiled:
        print(f"note: {remark(bundle)}", file=sys.stderr)
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from airgap.bundle_head import read_head
    from airgap.inspection import describe, licence_table, to_json
    from airgap.verify import SBOM_NAME

    bundle = verify(*options.bundle, signers=options.allowed_signers or site_signers())
    sbom = read_head(options.bundle, [SBOM_NAME]).get(SBOM_NAME) if options.licences else None
    if options.json:
        print(to_json(bundle, sbom, options.licences))
    else:
        print(licence_table(bundle, sbom) if options.licences else describe(bundle))
    return 0


def _diff(options: argparse.Namespace) -> int:
    from airgap.bundle_head import read_manifest
    from airgap.diff import compare
    from airgap.diff_report import markdown_report, text_report

    difference = compare(read_manifest(options.old), read_manifest(options.new))
    if options.format == "json":
        print(json.dumps(difference.to_dict(), indent=1, sort_keys=True))
    else:
        print({"text": text_report, "markdown": markdown_report}[options.format](difference), end="")
    return 0
