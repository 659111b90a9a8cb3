"""Packs (``packed-env.tar``, pixi-pack's format): write, read, and bring into a mirror.

``python3 -m airgap.pack import PACK ...`` and ``forget FILE ...`` run on the controller with its stock Python.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airgap.errors import AirgapError
from airgap.pack_import import ImportedPack, forget_pack, import_pack
from airgap.pack_reader import PackContents, read_pack
from airgap.pack_writer import write_pack
from airgap.targets import parse_target

__all__ = ["ImportedPack", "PackContents", "import_pack", "read_pack", "write_pack"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; print one line of JSON about the pack."""
    parser = argparse.ArgumentParser(
        prog="python3 -m airgap.pack", description="Bring a pack's packages into the mirror."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("import", help="check a pack and put its packages into the mirror")
    command.add_argument("pack", type=Path, metavar="PACK", help="packed-env.tar")
    command.add_argument(
        "--flow-dir", type=Path, required=True, help="directory with the locks that it was packed from"
    )
    command.add_argument("--mirror", type=Path, required=True, help="directory of the mirror")
    command.add_argument("--environments", type=Path, required=True, help="directory for the environment's description")
    command.add_argument("--manifest", type=Path, help="the bundle's manifest.json")
    command.add_argument("--name", required=True, help="name of the environment")
    command.add_argument("--target", required=True, help="for example debian-12-x86_64")
    command.add_argument("--check", action="store_true", help="change nothing, say what would be done")
    command.set_defaults(run=_import)
    command = commands.add_parser("forget", help="take away what an import created, which turned out to be of no use")
    command.add_argument("created", type=Path, nargs="*", metavar="FILE", help="as the import named it")
    command.add_argument("--mirror", type=Path, required=True, help="directory of the mirror")
    command.set_defaults(run=_forget)
    options = parser.parse_args(arguments)
    os.umask(0o022)  # nodes' users read what comes of this
    try:
        print(json.dumps(options.run(options)))
    except (AirgapError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _forget(options: argparse.Namespace) -> dict[str, Any]:
    forget_pack(options.created, options.mirror)
    return {"changed": bool(options.created)}


def _import(options: argparse.Namespace) -> dict[str, Any]:
    imported = import_pack(
        options.pack,
        options.flow_dir,
        options.mirror,
        options.environments,
        options.name,
        parse_target(options.target),
        manifest=options.manifest,
        check=options.check,
    )
    environment = imported.environment
    return {
        "description": str(imported.description),
        "digest": environment.digest,
        "directory_name": environment.directory_name,
        "interpreter": environment.interpreter,
        "python": environment.python,
        "platform": environment.platform,
        "prefect_version": environment.version_of("prefect"),
        "changed": imported.changed,
        "created": [str(path) for path in imported.created],
    }


if __name__ == "__main__":
    sys.exit(main())
