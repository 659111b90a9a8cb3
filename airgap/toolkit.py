"""The programs that install environments on nodes: py-rattler and uv, unpacked from their wheels.

``python3 -m airgap.toolkit`` makes ``<root>/<digest>/`` (both wheels' files, ``bin/uv``, and this package) and points
the link ``<root>/current`` at it. With that directory on ``PYTHONPATH``, a stock ``python3`` runs ``airgap.install``.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from airgap.durable import flush
from airgap.environment import Environment
from airgap.errors import AirgapError, InstallationError
from airgap.files import check_packages, switch_link

_PACKAGE = Path(__file__).resolve().parent


def toolkit_digest(environment: Environment, package: Path) -> str:
    """Return SHA-256 over the two wheels and the files of this Python *package*: what a toolkit directory holds."""
    digest = hashlib.sha256(environment.digest.encode())
    for path in sorted(_sources(package)):
        digest.update(f"\0{path.relative_to(package).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def unpack_toolkit(environment: Environment, mirror: Path, root: Path, package: Path = _PACKAGE) -> tuple[Path, bool]:
    """Make the toolkit's directory below *root*, point ``current`` at it, and return it and whether anything changed.

    *package* is the ``airgap`` folder that goes with it. Works when interrupted at any moment: the directory appears
    under its name when it is complete. Raises VerificationError when a wheel is not the one described.
    """
    os.umask(0o022)
    directory = root / toolkit_digest(environment, package)[:12]
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        changed = not directory.is_dir()
        if changed:
            for leftover in root.glob(".new-*"):
                shutil.rmtree(leftover)
            check_packages(environment.wheels, mirror)
            unfinished = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
            try:
                _unpack(environment, mirror, package, unfinished)
                unfinished.chmod(0o755)
                # Its name is trusted: after a power failure, files under it must not be empty.
                flush(unfinished)
                unfinished.rename(directory)
            except OSError as error:
                shutil.rmtree(unfinished)
                raise InstallationError(f"The toolkit could not be unpacked into {root}: {error.strerror}.") from error
        return directory, switch_link(root / "current", Path(directory.name)) or changed


def _unpack(environment: Environment, mirror: Path, package: Path, destination: Path) -> None:
    for wheel in environment.wheels:
        with zipfile.ZipFile(mirror / wheel.path) as archive:
            archive.extractall(destination)
    # A wheel's programs are in its .data directory, without the executable bit once a zip reader has unpacked them.
    programs = destination / "bin"
    programs.mkdir()
    for program in destination.glob("*.data/scripts/*"):
        program.rename(programs / program.name)
        (programs / program.name).chmod(0o755)
    for source in _sources(package):
        copy = destination / "airgap" / source.relative_to(package)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)


def _sources(package: Path) -> Iterable[Path]:
    return package.rglob("*.py")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; print one line of JSON: ``path`` and ``changed``."""
    parser = argparse.ArgumentParser(prog="python3 -m airgap.toolkit", description="Unpack the installers' programs.")
    parser.add_argument("--description", type=Path, required=True, help="environments/toolkit.<target>.json")
    parser.add_argument("--mirror", type=Path, required=True, help="directory of the mirror")
    parser.add_argument("--root", type=Path, required=True, help="directory to put the toolkit in")
    parser.add_argument("--package", type=Path, default=_PACKAGE, help="the airgap folder that goes into it")
    parser.add_argument("--check", action="store_true", help="change nothing, say what would be done")
    options = parser.parse_args(arguments)
    try:
        environment = Environment.from_file(options.description)
        if options.check:
            path = options.root / toolkit_digest(environment, options.package)[:12]
            changed = not path.is_dir() or (options.root / "current").resolve() != path.resolve()
        else:
            path, changed = unpack_toolkit(environment, options.mirror, options.root, options.package)
    except AirgapError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename} cannot be used: {error.strerror}.", file=sys.stderr)
        return 1
    print(json.dumps({"path": str(path), "changed": changed}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
