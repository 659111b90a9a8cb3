#!/usr/bin/env python3
"""Make the channel: ``python3 tests/channel/build.py DIRECTORY [--without-prefect]``.

Needs apt's package lists, a C compiler, and for Prefect a Python package index. ``tools/lock_conda.py --channel`` makes
locks over what comes of it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

for directory in (Path(__file__).resolve().parents[1], Path(__file__).resolve().parents[2]):
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))

from airgap.index_formats import render_repodata  # noqa: E402
from channel.compiled import compiled_packages, script_packages  # noqa: E402
from channel.debian_python import VERSION, debian_python  # noqa: E402
from channel.packages import Package  # noqa: E402
from channel.wheel_packages import wheel_package  # noqa: E402

_LOCK = Path(__file__).with_name("prefect.txt")


def build_channel(directory: Path, work: Path, *, prefect: bool = True) -> Path:
    """Make the channel *directory*, with what is fetched in *work*; return it. The directory is replaced."""
    unfinished = directory.with_name(f"{directory.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    records: dict[str, dict[str, dict[str, Any]]] = {"noarch": {}, "linux-64": {}}
    for package in _packages(work, prefect=prefect):
        record = package.write(unfinished)
        records[package.subdir][record.pop("fn")] = record
    for subdir, packages in records.items():
        (unfinished / subdir / "repodata.json").write_bytes(render_repodata(subdir, packages))
    shutil.rmtree(directory, ignore_errors=True)
    unfinished.rename(directory)
    return directory


def _packages(work: Path, *, prefect: bool) -> Iterator[Package]:
    yield debian_python(work / "python")
    yield from compiled_packages(work / "compiled")
    yield from script_packages()
    if prefect:
        for wheel in sorted(_prefect_wheels(work / "wheels").glob("*.whl")):
            yield wheel_package(wheel, VERSION)


def _prefect_wheels(directory: Path) -> Path:
    """Fetch the wheels of the lock into *directory*, where they are not there yet."""
    if not (directory / ".complete").exists():
        command = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", "download"]
        command += ["--no-deps", "--require-hashes", "--only-binary=:all:", f"--python-version={VERSION}"]
        command += [f"--dest={directory}", f"--requirement={_LOCK}"]
        subprocess.run(command, check=True)
        (directory / ".complete").touch()
    return directory


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Make the conda channel that tests use.")
    parser.add_argument("directory", type=Path, help="the channel; replaced when it exists")
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pag/test-channel"
    parser.add_argument(
        "--work", type=Path, default=default, help="where fetched files are kept (default: %(default)s)"
    )
    parser.add_argument("--without-prefect", action="store_true", help="make the small packages only")
    options = parser.parse_args()
    channel = build_channel(options.directory.absolute(), options.work.absolute(), prefect=not options.without_prefect)
    print(channel.as_uri())
    return 0


if __name__ == "__main__":
    sys.exit(main())
