"""kill -9 of the builder at random moments: the same command again ends in the same bundle, byte for byte."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import copy_repository
from machines import unprivileged

from airgap.verify import verify

pytestmark = [pytest.mark.network, pytest.mark.long]

_MOMENTS = 20
_SEED = 1


_VOLUMES = ("--split-size", "64M")


def _command(checkout: Path, output: Path, cache: Path, *more: str) -> list[str]:
    options = ["--quiet", "--python", "system", "--target", "debian-12", *more]
    program = [sys.executable, checkout / "build-bundle.py"]
    return unprivileged([*program, *options, "--cache", cache, "--output", output])


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def test_twenty_moments_of_building(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The cache is empty before the first, and each goes on with what the ones before it left.

    Every other one writes volumes.
    """
    kinds = {"archive": (), "volumes": _VOLUMES}
    for name in ("expected", "killed"):
        for kind in kinds:
            (tmp_path / name / kind).mkdir(parents=True)
    # Nobody edits that one meanwhile.
    checkout = tmp_path / "checkout"
    copy_repository(checkout)
    # The first run is no measure: it makes the builder's own environment where there is none.
    for kind, options in kinds.items():
        output = tmp_path / "expected" / kind / "bundle.tar.gz"
        subprocess.run(_command(checkout, output, tmp_path / "cache-1", *options), check=True)
    cache = tmp_path / "cache-2"
    moments = random.Random(_SEED)  # noqa: S311, not for secrets
    seconds, killed = 6.0, []
    while len(killed) < _MOMENTS:
        moment = round(moments.uniform(0.1, seconds), 2)
        kind = list(kinds)[len(killed) % len(kinds)]
        output = tmp_path / "killed" / kind / "bundle.tar.gz"
        # One that repeats another is over before it is killed.
        shutil.rmtree(cache / "remembered", ignore_errors=True)
        with subprocess.Popen(
            _command(checkout, output, cache, *kinds[kind]), start_new_session=True, stdin=subprocess.DEVNULL
        ) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment)
            # Everything that it started, too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if process.returncode == -signal.SIGKILL:
            killed.append(moment)
        else:  # too late: with more in the cache, it is quicker
            assert process.returncode == 0
            seconds = moment
        if (finished := output if kind == "archive" else output.with_name(f"{output.name}.sha256")).exists():
            verify(finished)
    with capsys.disabled():
        print(f"\n  killed at {killed} s")
    for kind, options in kinds.items():
        output = tmp_path / "killed" / kind / "bundle.tar.gz"
        subprocess.run(_command(checkout, output, cache, *options), check=True, stdin=subprocess.DEVNULL)
        assert _digests(output.parent) == _digests(tmp_path / "expected" / kind)
