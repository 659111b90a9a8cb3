"""The command that builds a bundle, and the options that it shares with packing a flow."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from airgap import __version__
from airgap.cache import default_cache
from airgap.cli_output import make_progress, say
from airgap.errors import UsageError
from airgap.plan import BuildOptions, find_flows
from airgap.progress import human_size
from airgap.targets import RELEASES, Target, host_target, parse_target

if TYPE_CHECKING:
    from airgap.build import Result

_ROOT = Path(__file__).resolve().parent.parent
_DEFAULT_OUTPUT = Path("pag-software-bundle.tar.gz")


def parser(program: str) -> argparse.ArgumentParser:
    """Return the parser of the command line that builds a bundle."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Build the bundle with all software of an airgapped Prefect cluster.",
        epilog="Other commands: verify BUNDLE, inspect BUNDLE, pack-flow FLOW_DIR (each has its own --help).",
    )
    add_build_options(parser)
    parser.add_argument(
        "--flow",
        action="append",
        type=Path,
        metavar="DIR",
        help="flow directory to include, with its packages (repeatable; default: every folder in flows/)",
    )
    parser.add_argument(
        "--apt-mirror",
        action="append",
        default=[],
        metavar="[RELEASE=]URL",
        help="archive to take Debian packages from (repeatable; default: as this host's apt sources say)",
    )
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        default=_DEFAULT_OUTPUT,
        metavar="FILE",
        help="archive to write (default: %(default)s)",
    )
    parser.add_argument(
        "--version",
        default=os.environ.get("BUNDLE_VERSION") or __version__,
        metavar="TEXT",
        help="version to give the bundle (default: BUNDLE_VERSION from the environment, or pag's own, %(default)s)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be fetched and how large it is")
    parser.set_defaults(run=run)
    return parser


def add_build_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that building and packing share."""
    parser.add_argument(
        "--python",
        choices=("auto", "conda", "system"),
        default="auto",
        help="conda: Python is a conda package, from pixi.lock; system: the nodes' own Python, with wheels from "
        "requirements.txt; auto: conda where the channels answer, else system (default: %(default)s)",
    )
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="RELEASE",
        help=f"release of the nodes: {', '.join(RELEASES)}, with -x86_64 or -aarch64 after it for an architecture "
        "(repeatable; default: this host's release)",
    )
    parser.add_argument(
        "--channel",
        action="append",
        default=[],
        metavar="NAME=URL",
        help="take the conda channel NAME (or its address) from URL, a mirror or file:// (repeatable)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=default_cache(),
        metavar="DIR",
        help="where downloads are kept (default: %(default)s)",
    )
    parser.add_argument("--quiet", "-q", action="store_true", help="print errors only")


def run(options: argparse.Namespace) -> int:
    """Build, or say what would be built; return the exit status."""
    from airgap.build import build
    from airgap.network import pip_network

    progress = make_progress(options.quiet)
    asked = build_options(options)
    result = build(asked, pip_network(), progress, lambda choice: say(options.quiet, str(choice)))
    if asked.dry_run:
        _print_dry_run(result)
    else:
        say(options.quiet, f"digest {result.digest} (SHA-256 of SHA256SUMS)")
        say(options.quiet, f"{result.output}: {human_size(result.size)}. {result.choice}")
    return 0


def build_options(options: argparse.Namespace, flows: tuple[Path, ...] | None = None) -> BuildOptions:
    """Return the build's options; raise UsageError for what cannot be meant."""
    if flows is None:
        flows = tuple(flow.resolve() for flow in options.flow) if options.flow else tuple(find_flows(_ROOT))
    output = options.output.expanduser()
    if output.is_dir():
        raise UsageError(f"{output} is a directory: name the file to write with --output.")
    return BuildOptions(
        root=_ROOT,
        cache=options.cache.expanduser().resolve(),
        output=output,
        targets=_targets(options.target),
        python=options.python,
        flows=flows,
        channels=dict(_pair(text, "--channel") for text in options.channel),
        apt_mirrors=dict(_mirror(text) for text in getattr(options, "apt_mirror", [])),
        version=getattr(options, "version", ""),
        dry_run=getattr(options, "dry_run", False),
    )


def _targets(names: Sequence[str]) -> tuple[Target, ...]:
    architecture = platform.machine()
    if not names:
        return (host_target(architecture),)
    return tuple(dict.fromkeys(parse_target(name, architecture) for name in names))


def _pair(text: str, option: str) -> tuple[str, str]:
    name, separator, url = text.partition("=")
    if not name or not separator or "://" not in url:
        raise UsageError(
            f"{option} wants NAME=URL, with an address such as https://mirror/channel or file:///srv/channel."
        )
    return name, url


def _mirror(text: str) -> tuple[str, str]:
    before, separator, _ = text.partition("=")
    # An address may have = in it; a release has no colon.
    release, url = ("", text) if not separator or ":" in before else _pair(text, "--apt-mirror")
    if (release and release not in RELEASES) or "://" not in url:
        raise UsageError(f"--apt-mirror wants an address, or RELEASE=URL with one of {', '.join(RELEASES)}.")
    return release, url


def _print_dry_run(result: Result) -> None:
    from rich.console import Console
    from rich.table import Table

    missing = {download.sha256 for download in result.missing}
    table = Table("kind", "files", "size", "to fetch", box=None, header_style="")
    by_kind = {kind: [d for d in result.contents.downloads if d.kind == kind] for kind in ("conda", "wheel", "deb")}
    for kind, downloads in by_kind.items():
        to_fetch = sum(result.sizes[download.sha256] for download in downloads if download.sha256 in missing)
        size = sum(result.sizes[download.sha256] for download in downloads)
        table.add_row(kind, str(len(downloads)), human_size(size), human_size(to_fetch))
    Console().print(table)
    to_fetch = sum(result.sizes[download.sha256] for download in result.missing)
    print(
        f"Dry run: {len(result.missing)} of {len(result.contents.downloads)} files would be fetched, "
        f"{human_size(to_fetch)}; nothing was. {result.choice}"
    )
