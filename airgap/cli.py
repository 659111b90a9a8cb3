"""The builder's command line. Errors are caught here, once."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from airgap import __version__
from airgap.cache import default_cache
from airgap.errors import AirgapError, UsageError
from airgap.plan import BuildOptions, find_flows
from airgap.progress import BarProgress, LineProgress, Progress, human_size
from airgap.targets import RELEASES, Target, host_target, parse_target

if TYPE_CHECKING:
    from airgap.build import Result

_ROOT = Path(__file__).resolve().parent.parent
_PROGRAM = "build-bundle.py"
_DEFAULT_OUTPUT = Path("pag-software-bundle.tar.gz")
_INTERRUPTED = 130
_COMMANDS = ("verify", "inspect", "pack")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that *arguments* name and return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given and given[0] in _COMMANDS:
            options = _command_parser().parse_args(given)
            return int(options.run(options))
        return _build(_build_parser().parse_args(given))
    except AirgapError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; start again to go on where it was.", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # What reads our output has left (head, less): no reason to complain to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Build the bundle with all software of an airgapped Prefect cluster.",
        epilog="Other commands: verify BUNDLE, inspect BUNDLE, pack FLOW_DIR (each has its own --help).",
    )
    _add_build_options(parser)
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
    return parser


def _add_build_options(parser: argparse.ArgumentParser) -> None:
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


def _command_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_PROGRAM)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
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
    pack = commands.add_parser(
        "pack",
        help="pack one flow's environment",
        description="Write one flow's packages as packed-env.tar, for a flow that is deployed later than its bundle.",
    )
    pack.add_argument("flow", type=Path, metavar="FLOW_DIR", help="directory with the flow's locks")
    _add_build_options(pack)
    pack.add_argument("--output", "-o", type=Path, metavar="FILE", help="default: packed-env.tar in FLOW_DIR")
    pack.set_defaults(run=_pack)
    return parser


def _build(options: argparse.Namespace) -> int:
    from airgap.build import build
    from airgap.network import pip_network

    progress = _progress(options.quiet)
    build_options = _options(options)
    result = build(build_options, pip_network(), progress, lambda choice: _say(options.quiet, str(choice)))
    if build_options.dry_run:
        _print_dry_run(result)
    else:
        _say(options.quiet, f"digest {result.digest} (SHA-256 of SHA256SUMS)")
        _say(options.quiet, f"{result.output}: {human_size(result.size)}. {result.choice}")
    return 0


def _pack(options: argparse.Namespace) -> int:
    from airgap.flow_pack import pack_flow
    from airgap.network import pip_network

    options.output = options.output or options.flow / "packed-env.tar"
    build_options = _options(options, flows=(options.flow.resolve(),))
    if len(build_options.targets) != 1:
        raise UsageError("A pack is for one target: give --target once, and another --output for each further pack.")
    environment, choice = pack_flow(
        build_options, pip_network(), _progress(options.quiet), lambda choice: _say(options.quiet, str(choice))
    )
    size = human_size(build_options.output.stat().st_size)
    _say(options.quiet, f"{build_options.output}: {size}, {len(environment.files)} packages. {choice}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from airgap.verify import verify

    receipt = verify(options.bundle).receipt
    _say(options.quiet, str(receipt))
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from airgap.inspection import print_bundle
    from airgap.verify import verify

    print_bundle(verify(options.bundle))
    return 0


def _options(options: argparse.Namespace, flows: tuple[Path, ...] | None = None) -> BuildOptions:
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


def _progress(quiet: bool) -> Progress:
    if quiet:
        return Progress()
    return BarProgress() if sys.stderr.isatty() else LineProgress()


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        print(text, flush=True)


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


def _exit(status: int) -> NoReturn:
    """End the process without waiting for threads: after an error or Ctrl-C they may sit in a read for a minute."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _exit(main())
