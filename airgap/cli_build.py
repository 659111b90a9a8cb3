"""The command that builds a bundle, and the options that it shares with packing a flow."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from airgap import __version__
from airgap.bundle_writer import Written
from airgap.cache import default_cache
from airgap.choosing import choose
from airgap.cli_output import make_progress, say
from airgap.config import CONFIG_NAME, pixi_mirrors, settings
from airgap.errors import UsageError
from airgap.manifest import PACKAGE_KINDS, Kind, Manifest
from airgap.network import Network, NetworkOptions, pip_network
from airgap.plan import PIXI_ENVIRONMENT, BuildOptions, Choice, find_flows
from airgap.progress import human_size
from airgap.repeat import repeat
from airgap.sources.apt import apt_source
from airgap.sources.apt_archives import AptRepository
from airgap.sources.apt_root import host_proxies
from airgap.sources.conda_extra import CondaExtra
from airgap.targets import RELEASES, Target, host_target, parse_target

if TYPE_CHECKING:
    from airgap.build import Result
    from airgap.delta import Base
    from airgap.resolve import Contents

_ROOT = Path(__file__).resolve().parent.parent
_DEFAULT_OUTPUT = Path("pag-software-bundle.tar.gz")
# Keys of bundle.toml that packing a flow heeds too.
_SHARED_KEYS = frozenset({"targets", "python", "mirrors", "indexes", "proxy", "no-proxy", "ca-file", "cache"})


def parser(program: str) -> argparse.ArgumentParser:
    """Return the parser of the command line that builds a bundle."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Build the bundle with all software of an airgapped Prefect cluster.",
        epilog="Other commands: verify BUNDLE, inspect BUNDLE, diff OLD NEW, pack-flow FLOW_DIR (each has --help).",
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
        help="archive to take Debian packages from, the next one where one fails (repeatable; default: as this host's "
        "apt sources say)",
    )
    parser.add_argument(
        "--apt-repository",
        action="append",
        default=[],
        metavar="FIELDS",
        help="another repository of Debian packages: 'uri=URL suite=SUITE components=A,B signed-by=KEYRING "
        "packages=A,B targets=A,B' (repeatable)",
    )
    parser.add_argument(
        "--extra-deb",
        action="append",
        default=[],
        metavar="NAME",
        help="a Debian package to carry too, with what it depends on (repeatable)",
    )
    parser.add_argument(
        "--extra-wheels",
        action="append",
        default=[],
        metavar="FILE",
        help="a hash-locked requirements file whose wheels to carry too (repeatable)",
    )
    parser.add_argument(
        "--extra-conda",
        action="append",
        default=[],
        metavar="FIELDS",
        help="conda packages to carry too: 'lock=PIXI_LOCK environment=NAME', or 'url=URL sha256=DIGITS' (repeatable)",
    )
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        metavar="FILE",
        help=f"archive to write (default: {_DEFAULT_OUTPUT})",
    )
    parser.add_argument(
        "--version",
        metavar="TEXT",
        help="version to give the bundle (default: BUNDLE_VERSION from the environment, bundle.toml's, or pag's own, "
        f"{__version__})",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would travel and what would be fetched")
    parser.add_argument(
        "--since",
        type=Path,
        metavar="HAVE_JSON",
        help="build only what the site lacks that this have.json is of; without --target, for the site's targets",
    )
    parser.add_argument(
        "--have-signers",
        type=Path,
        metavar="FILE",
        help="allowed signers (ssh-keygen(1)), one of whom must have signed the have.json (in HAVE_JSON.sig)",
    )
    parser.add_argument(
        "--sign-key",
        type=Path,
        metavar="FILE",
        help="sign the bundle with this key of OpenSSH's; ssh-keygen asks for its passphrase, or ssh-agent has it",
    )
    parser.add_argument(
        "--split-size",
        metavar="SIZE",
        help="write volumes that are each smaller than SIZE, such as 700M or 4G (1024-based), and not one archive",
    )
    parser.add_argument(
        "--system-updates",
        action="store_true",
        help="include the distribution's security updates for the nodes that the have.json tells of",
    )
    parser.set_defaults(run=run)
    return parser


def add_build_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that building and packing share."""
    parser.add_argument(
        "--python",
        choices=("auto", "conda", "system"),
        help="conda: Python is a conda package, from pixi.lock; system: the nodes' own Python, with wheels from "
        "requirements.txt; auto: conda where the channels answer, else system (default: auto)",
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
        help="take the conda channel NAME, or addresses that begin with NAME, from URL, a mirror or file:// "
        "(repeatable; the same NAME again for the mirror to try next)",
    )
    parser.add_argument(
        "--index",
        action="append",
        default=[],
        metavar="URL",
        help="simple Python package index, the next one where one fails (repeatable; default: as pip is configured)",
    )
    parser.add_argument(
        "--proxy", metavar="URL", help="proxy for everything (default: as pip, apt and the environment say)"
    )
    parser.add_argument(
        "--no-proxy", action="append", default=[], metavar="HOST", help="host or domain without a proxy (repeatable)"
    )
    parser.add_argument(
        "--ca-file",
        metavar="FILE",
        help="certificate authorities to trust (default: as pip, apt and the environment say)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help=f"where downloads are kept (default: {default_cache()})",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"file with these options (default: {CONFIG_NAME} beside build-bundle.py, where there is one); "
        "docs/building.md has its keys",
    )
    parser.add_argument("--quiet", "-q", action="store_true", help="print errors only")


def run(options: argparse.Namespace) -> int:
    """Build, or say what would be built; return the exit status."""
    asked = build_options(options)
    network, progress, choices = network_of(asked), make_progress(options.quiet), set[Choice]()

    def announce(choice: Choice) -> None:
        if choice not in choices:
            say(options.quiet, str(choice))
        choices.add(choice)

    choice = choose(asked, network)
    if (repeated := repeat(asked, choice, network, progress, announce, apt_source(asked))) is not None:
        _say_what_was_written(options.quiet, repeated.digest, repeated.written, repeated.choice)
        return 0
    # Only now: what resolves, fetches and describes takes a while to load.
    from airgap.build import build

    if not asked.network.proxy:
        network = replace(network, deb_proxies=host_proxies())
    result = build(asked, network, progress, announce, choice=choice)
    if asked.base is not None:
        say(options.quiet, _reliance(result.manifest))
    if asked.system_updates:
        say(options.quiet, _updates(result.contents))
    if result.output is None:
        _print_dry_run(result)
    else:
        written = Written(result.output, result.volumes, result.size)
        _say_what_was_written(options.quiet, result.digest, written, result.choice)
    return 0


def _say_what_was_written(quiet: bool, digest: str, written: Written, choice: Choice) -> None:
    say(quiet, f"digest {digest} (SHA-256 of SHA256SUMS)")
    volumes = f"{written.volumes} volumes, " if written.volumes else ""
    say(quiet, f"{written.output}: {volumes}{human_size(written.size)}. {choice}")


def build_options(options: argparse.Namespace, flows: tuple[Path, ...] | None = None) -> BuildOptions:
    """Return the build's options, of the command line and of bundle.toml; raise UsageError for what cannot be meant.

    With *flows*, those are packed, and only what building and packing share is looked at.
    """
    given = settings(options, _ROOT, None if flows is None else _SHARED_KEYS)
    if flows is None:
        flows = tuple(Path(flow).resolve() for flow in given.get("flows", ())) or tuple(find_flows(_ROOT))
        output = Path(given.get("output", _DEFAULT_OUTPUT))
    else:
        output = options.output.expanduser()
    if output.is_dir():
        raise UsageError(f"{output} is a directory: name the file to write with --output.")
    base = _base(_path(given, "since"), _path(given, "have-signers"))
    return BuildOptions(
        root=_ROOT,
        cache=Path(given.get("cache", default_cache())).resolve(),
        output=output,
        targets=_targets(given.get("targets") or (base.have.targets if base else ())),
        python=given.get("python", "auto"),
        flows=flows,
        channels=pixi_mirrors(_ROOT) | given.get("mirrors", {}),
        apt_mirrors=_apt_mirrors(given.get("apt-mirrors", {})),
        apt_repositories=tuple(
            AptRepository(
                uri=entry["uri"],
                suite=entry["suite"],
                signed_by=Path(entry["signed-by"]),
                components=tuple(entry.get("components", ())),
                packages=tuple(entry.get("packages", ())),
                targets=tuple(entry.get("targets", ())),
            )
            for entry in given.get("apt-repositories", ())
        ),
        extra_debs=tuple(given.get("extra-debs", ())),
        extra_wheels=tuple(Path(path) for path in given.get("extra-wheels", ())),
        extra_conda=tuple(
            CondaExtra(
                lock=_path(entry, "lock"),
                environment=entry.get("environment", PIXI_ENVIRONMENT),
                url=entry.get("url", ""),
                sha256=entry.get("sha256", ""),
            )
            for entry in given.get("extra-conda", ())
        ),
        network=NetworkOptions(
            indexes=tuple(given.get("indexes", ())),
            proxy=given.get("proxy"),
            no_proxy=tuple(given.get("no-proxy", ())),
            ca_file=_path(given, "ca-file"),
        ),
        # The environment's goes before the file's: it is about this one build.
        version=options.version or os.environ.get("BUNDLE_VERSION") or given.get("version") or __version__
        if "version" in options
        else "",
        dry_run=getattr(options, "dry_run", False),
        base=base,
        system_updates=given.get("system-updates", False),
        sign_key=_path(given, "sign-key"),
        split_size=_split_size(given),
    )


def _split_size(given: Mapping[str, Any]) -> int | None:
    if "split-size" not in given:
        return None
    from airgap.volumes import parse_size

    return parse_size(given["split-size"])


def network_of(asked: BuildOptions) -> Network:
    """Return how *asked* reaches the network: as its options say, else as pip is configured."""
    return pip_network(asked.cache).with_options(asked.network)


def _base(since: Path | None, signers: Path | None) -> Base | None:
    if since is None:
        if signers is not None:
            raise UsageError("--have-signers checks the file that --since names: give both.")
        return None
    from airgap.delta import read_base

    return read_base(since, signers)


def _path(table: Mapping[str, Any], key: str) -> Path | None:
    return Path(table[key]) if key in table else None


def _targets(names: Sequence[str]) -> tuple[Target, ...]:
    architecture = os.uname().machine
    if not names:
        return (host_target(architecture),)
    return tuple(dict.fromkeys(parse_target(name, architecture) for name in names))


def _apt_mirrors(mirrors: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
    for name in mirrors:
        if name != "*" and name not in RELEASES:
            try:
                parse_target(name)
            except UsageError:
                raise UsageError(
                    f"There is no release {name} to take from an apt mirror: give an address alone, or one of "
                    f"{', '.join(RELEASES)} with it (and -aarch64 for an architecture)."
                ) from None
    return mirrors


def _print_dry_run(result: Result) -> None:
    from rich.console import Console
    from rich.table import Table

    to_fetch = Counter[str]()
    for download in result.missing:
        to_fetch[download.kind] += result.sizes[download.sha256]
    table = Table("kind", "files", "size", "to fetch", box=None, header_style="")
    files = result.manifest.files
    for kind in get_args(Kind):
        sizes = [file.size for file in files if file.kind == kind]
        fetched = human_size(to_fetch[kind]) if kind in PACKAGE_KINDS else "-"
        table.add_row(kind, str(len(sizes)), human_size(sum(sizes)), fetched)
    Console().print(table)
    if not result.complete:
        print("The Ansible collections are not counted: their wheel was not fetched yet.")
    print(
        f"Dry run: {len(files)} files would travel, {human_size(result.size)}; {len(result.missing)} would be fetched, "
        f"{human_size(sum(to_fetch.values()))}; nothing was. {result.choice}"
    )


def _reliance(manifest: Manifest) -> str:
    size = sum(file.size for file in manifest.relies_on)
    return f"Relies on {len(manifest.relies_on)} files that the site has, {human_size(size)} (base {manifest.base})."


def _updates(contents: Contents) -> str:
    updates = contents.system_updates
    if not updates:
        return "System updates: the nodes lack none."
    size = sum(update.size or 0 for update in updates)
    return f"System updates: {len(updates)} Debian packages, {human_size(size)}."
