"""kill -9 at any moment of merging a bundle, then the same command again: the same bytes as without."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from sites import conda, deb, tree, wheel, write_bundle

REPOSITORY = Path(__file__).resolve().parent.parent
_SIZE = 20_000


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A bundle and a delta of many files, unpacked."""
    chance = random.Random(1)  # noqa: S311
    old: dict[str, bytes] = {}
    for number in range(150):
        for make in (wheel, conda):
            old |= make(f"old{number}", chance.randbytes(_SIZE))
        old |= deb(f"d{number}")
    new = {name: chance.randbytes(_SIZE) for number in range(150) for name in wheel(f"new{number}")}
    root = tmp_path_factory.mktemp("bundles")
    texts = {f"ansible/roles/r{number}/tasks/main.yml": chance.randbytes(_SIZE) for number in range(50)}
    return [
        write_bundle(root / "full", old, texts, version="1"),
        write_bundle(root / "delta", old | new, texts, version="2", left_out=[*old, *texts]),
    ]


def _commands(bundle: Path, root: Path) -> list[list[str]]:
    program = [sys.executable, "-B", "-m", "airgap.controller"]
    return [[*program, command, str(bundle), str(root)] for command in ("verify", "populate", "finish")]


def _install(bundle: Path, root: Path) -> None:
    for command in _commands(bundle, root):
        subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)


def _install_killed(bundle: Path, root: Path, after: float) -> bool:
    """Run the installation and kill it *after* some seconds; return whether it was killed."""
    end = time.monotonic() + after
    for command in _commands(bundle, root):
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
    return False


def _try(bundles: Sequence[Path], directory: Path, kills: int, chance: random.Random) -> int:
    """Kill installations at random moments; return how many were killed before their end."""
    sources = [Path(shutil.copytree(bundle, directory / "expected" / bundle.name)) for bundle in bundles]
    started = time.monotonic()
    for source in sources:
        _install(source, directory / "expected" / "pag")
    duration = (time.monotonic() - started) / len(sources)
    expected = tree(directory / "expected")
    killed = 0
    for number in range(kills):
        attempt = directory / f"attempt-{number}"
        for bundle in bundles:
            source = Path(shutil.copytree(bundle, attempt / bundle.name))
            killed += _install_killed(source, attempt / "pag", chance.uniform(0.05, duration))
            _install(source, attempt / "pag")
        assert tree(attempt) == expected
        shutil.rmtree(attempt)
    return killed


@pytest.mark.process
def test_killed_twice(bundles: list[Path], tmp_path: Path) -> None:
    _try(bundles, tmp_path, 2, random.Random())  # noqa: S311


@pytest.mark.long
def test_killed_at_twenty_moments(bundles: list[Path], tmp_path: Path) -> None:
    killed = _try(bundles, tmp_path, 20, random.Random())  # noqa: S311
    print(f"{killed} of 40 installations were killed before their end")
    assert killed >= 20
