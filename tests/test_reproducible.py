"""The same inputs give the same bytes, whatever is different around the build: run in processes of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import make_key
from small_world import World, command, environment, small_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with small_world(tmp_path / "one") as world:
        (world.root / "flows/demo/notes.txt").write_text("Grüße\n", encoding="utf-8")
        script = world.root / "ansible/roles/common/files/run.sh"
        script.parent.mkdir(parents=True)
        script.write_text("#!/bin/sh\n")
        script.chmod(0o755)
        yield world


def copy_otherwise(root: Path, to: Path) -> Path:
    """Copy the checkout: files are made in another order, long ago, and are nobody else's to read."""
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_file():
            copy = to / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            copy.chmod(0o700 if path.stat().st_mode & 0o100 else 0o600)
            os.utime(copy, (1_000_000_000, 1_000_000_000))
    return to


def build(world: World, root: Path, directory: Path, umask: int, *options: str | Path, **variables: str) -> bytes:
    """Build in *directory*; return all files of the output, as one."""
    for name in ("home", "out"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    output = directory / "out" / "bundle.tar.gz"
    subprocess.run(
        command(world, root, output, directory / "cache", "--version", "1", *options),
        cwd=directory,
        umask=umask,
        env=environment(world, HOME=str(directory / "home"), **variables),
        check=True,
    )
    return b"".join(f"{path.name}\n".encode() + path.read_bytes() for path in sorted(output.parent.iterdir()))


@pytest.mark.process
@pytest.mark.parametrize("options", [(), ("--split-size", "1M", "--sign-key", "key")])
def test_two_builds_are_the_same_byte_for_byte(world: World, tmp_path: Path, options: tuple[str, ...]) -> None:
    given = [make_key(tmp_path / "key") if option == "key" else option for option in options]
    one = build(
        world, world.root, tmp_path / "one", 0o022, *given,
        LC_ALL="C.UTF-8", TZ="UTC", PYTHONHASHSEED="1",
    )  # fmt: skip
    other = copy_otherwise(world.root, tmp_path / "a" / "longer name of" / "a checkout")
    time.sleep(1.1)
    two = build(
        world, other, tmp_path / "two", 0o077, *given,
        # Plain ASCII: Python would make it UTF-8 where it is not told not to.
        LC_ALL="POSIX", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0", TZ="Pacific/Kiritimati", PYTHONHASHSEED="2",
        USER="somebody", HOSTNAME="elsewhere", SOURCE_DATE_EPOCH="1",
    )  # fmt: skip
    assert one == two
    assert len(one) > 3_000_000
