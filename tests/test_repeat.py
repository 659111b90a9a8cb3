"""A build of what was built before: the same bytes without the work, and never of anything that has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bundles import make_key
from debian_archive import Deb, write_archive
from debian_archive import make_key as make_archive_key
from small_world import WHEELS, FakeApt, World, small_world

from airgap import archive
from airgap.cache import Cache
from airgap.hashing import sha256_of_bytes
from airgap.progress import Progress
from airgap.sources.apt import AptSource
from airgap.verify import verify

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive_key(tmp_path_factory.mktemp("gpg"))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with small_world(tmp_path) as world:
        yield world


def test_the_same_bytes_are_written_again_without_asking_for_packages(world: World) -> None:
    assert world.repeat() is None
    digest = world.build().digest
    before = world.options.output.read_bytes()
    world.options.output.unlink()
    asked = len(world.server.requests)
    repeated = world.repeat()
    assert repeated is not None
    assert repeated.digest == digest
    assert repeated.written.size == len(before)
    assert world.options.output.read_bytes() == before
    assert len(world.server.requests) == asked


def test_volumes_too(world: World) -> None:
    world.build(split_size=1024**2)
    before = {path.name: path.read_bytes() for path in world.options.output.parent.iterdir()}
    for path in world.options.output.parent.iterdir():
        path.unlink()
    repeated = world.repeat(split_size=1024**2)
    assert repeated is not None
    assert repeated.written.volumes == 3
    assert {path.name: path.read_bytes() for path in world.options.output.parent.iterdir()} == before


def test_where_no_channel_answers_the_choice_is_the_same_again(world: World) -> None:
    channels = "    channels:\n    - url: http://127.0.0.1:9/none\n    packages: {}\n"
    (world.root / "pixi.lock").write_text(f"version: 6\nenvironments:\n  default:\n{channels}packages: []\n")
    digest = world.build(python="auto").digest
    repeated = world.repeat(python="auto")
    assert repeated is not None
    assert (repeated.choice.interpreter, repeated.digest) == ("system", digest)
    # Where one answers, there is a channel to ask for more than that.
    channel = world.root / "channel"
    channel.mkdir()
    assert world.repeat(python="auto", channels={"http://127.0.0.1:9/none": (channel.as_uri(),)}) is None


def test_the_size_of_blocks_does_not_change_the_bytes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.build()
    before = world.options.output.read_bytes()
    monkeypatch.setattr(archive, "_BLOCK_BYTES", 7 * 65535)
    assert world.repeat() is not None
    assert world.options.output.read_bytes() == before


def edit(path: str, text: str) -> Callable[[World], None]:
    return lambda world: (world.root / path).write_text(text, encoding="utf-8") and None


@pytest.mark.parametrize(
    "change",
    [
        edit("README.md", "another"),
        edit("ansible/new.yml", "new"),
        edit("airgap/__init__.py", "another"),
        edit("flows/demo/main.py", "another"),
        edit("requirements/apt.txt", "rsync\nhtop\n"),
        lambda world: world.lock("requirements/toolkit.txt"),
        lambda world: world.lock("flows/demo/requirements.txt", ("prefect", "3.9"), ("cowpy", "1.1")),
        lambda world: (world.root / "README.md").rename(world.root / "CHANGELOG.md") and edit("README.md", "")(world),
        lambda world: (world.root / "ansible/main.yml").chmod(0o755),
    ],
)
def test_whatever_has_changed_is_built(world: World, change: Callable[[World], None]) -> None:
    world.build()
    change(world)
    assert world.repeat() is None


def test_other_options_are_another_build(world: World, tmp_path: Path) -> None:
    world.build()
    assert world.repeat(version="9") is None
    assert world.repeat(extra_debs=("htop",)) is None
    assert world.repeat(flows=()) is None
    assert world.repeat(dry_run=True) is None
    assert world.repeat(sign_key=make_key(tmp_path / "alice")) is None
    assert world.repeat(cache=tmp_path / "another") is None
    assert world.repeat() is not None


def test_a_file_that_is_edited_during_the_build_is_not_remembered(world: World) -> None:
    class Editing(Progress):
        def finished_file(self) -> None:
            edit("README.md", "another")(world)

    world.build(Editing())
    assert world.repeat() is None
    edit("README.md", "README.md")(world)
    assert world.repeat() is None


@pytest.mark.parametrize("content", [b"", b"evil", None])
def test_a_swapped_file_in_the_cache_is_found(world: World, content: bytes | None) -> None:
    world.build()
    before = world.options.output.read_bytes()
    wheel = WHEELS["cowpy", "1.0"]
    there = Cache(world.options.cache).path(sha256_of_bytes(wheel))
    there.write_bytes(wheel[:-1] + bytes([wheel[-1] ^ 1]) if content is None else content)
    assert world.repeat() is None
    assert world.options.output.read_bytes() == before
    # The build that follows puts it right.
    world.build()
    assert world.repeat() is not None
    assert world.options.output.read_bytes() == before


def test_what_is_remembered_may_be_damaged(world: World) -> None:
    world.build()
    (path,) = (world.options.cache / "remembered/bundles").iterdir()
    text = path.read_text()
    for damaged in (text[:-10], "[]", "{}", text.replace('"head": "H4sI', '"head": "H4sJ'), ""):
        path.write_text(damaged)
        assert world.repeat() is None


def test_an_archive_that_has_changed_leaves_the_output_as_it_was(world: World) -> None:
    world.build()
    world.options.output.write_bytes(b"the old bundle")
    assert world.repeat(FakeApt(world.server.url, current=False)) is None
    assert world.options.output.read_bytes() == b"the old bundle"
    assert [path.name for path in world.options.output.parent.iterdir()] == ["bundle.tar.gz"]


def test_the_next_build_has_the_security_update_that_has_appeared(world: World, tmp_path: Path, key: Path) -> None:
    def source() -> AptSource:
        address = (tmp_path / "debian").as_uri()
        return AptSource(world.options.cache, {"*": [address]}, keyrings=key / "keyrings")

    main = [Deb("rsync", "1.0"), Deb("other", "1")]
    write_archive(tmp_path / "debian", {"bookworm": main}, key)
    world.build(apt=source())
    assert world.repeat(source()) is not None
    for place in ("debian", "debian-security"):
        (tmp_path / place).rename(tmp_path / f"old-{place}")
    write_archive(tmp_path / "debian", {"bookworm": main, "bookworm-security": [Deb("rsync", "1.0+deb12u1")]}, key)
    assert world.repeat(source()) is None
    world.build(apt=source())
    (version,) = (file.version for file in verify(world.options.output).manifest.files if file.name == "rsync")
    assert version == "1.0+deb12u1"
    assert world.repeat(source()) is not None
