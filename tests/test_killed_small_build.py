"""kill -9 of a small build in a process of its own: the same command again ends in the same bytes."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_world import World, command, environment, small_world

from airgap.errors import VerificationError
from airgap.verify import verify

SPLIT = ("--split-size", "1M")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with small_world(tmp_path_factory.mktemp("world")) as world:
        # Something to compress takes a while: there is a middle to be killed in.
        (world.root / "flows/demo/data.bin").write_bytes(random.Random(1).randbytes(6_000_000))  # noqa: S311  no secret
        yield world


def start(world: World, directory: Path, options: tuple[str, ...]) -> subprocess.Popen[bytes]:
    (directory / "out").mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        command(world, world.root, directory / "out/bundle.tar.gz", directory / "cache", "--quiet", *options),
        env=environment(world, HOME=str(directory)),
    )


def finish(world: World, directory: Path, options: tuple[str, ...]) -> dict[str, bytes]:
    assert start(world, directory, options).wait(120) == 0
    return there(directory)


def there(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / "out").iterdir()}


def is_whole_or_nothing(directory: Path, options: tuple[str, ...]) -> bool:
    """Return whether what is there under its own name, if anything, is a whole bundle; raise when it is a part."""
    output = directory / "out" / ("bundle.tar.gz.sha256" if options else "bundle.tar.gz")
    if output.exists():
        verify(output)
    elif options and any(path.name[0] != "." for path in output.parent.iterdir()):
        with pytest.raises(VerificationError, match="index"):
            verify(output.parent)
    return True


def has_begun(directory: Path, since: float) -> bool:
    """Return whether anything was written to the output *since* then; file systems keep time in ticks."""
    return any(path.lstat().st_mtime > since - 0.01 for path in (directory / "out").iterdir())


@pytest.mark.process
@pytest.mark.parametrize("options", [(), SPLIT], ids=["archive", "volumes"])
def test_killed_while_it_writes(world: World, tmp_path: Path, options: tuple[str, ...]) -> None:
    expected = finish(world, tmp_path / "expected", options)
    # The third build repeats one that was complete.
    for moment in (0.0, 0.2, None):
        if moment is None:
            assert finish(world, tmp_path / "killed", options) == expected
        before = time.time()
        process = start(world, tmp_path / "killed", options)
        while not has_begun(tmp_path / "killed", before) and process.poll() is None:
            time.sleep(0.005)
        time.sleep(moment or 0.0)
        process.kill()
        assert process.wait() == -signal.SIGKILL or moment != 0.0
        assert is_whole_or_nothing(tmp_path / "killed", options)
    assert finish(world, tmp_path / "killed", options) == expected
