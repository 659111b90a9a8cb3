from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bundles import make_archive, make_entries

from airgap import volumes as module
from airgap.archive import archive_blocks
from airgap.errors import AirgapError, UsageError, VerificationError
from airgap.hashing import sha256_of_file
from airgap.verify import verify
from airgap.volumes import Written, find_volumes, parse_size, write_volumes

NAME = "bundle.tar.gz"
SCRIPT = ("install-pag-controller.sh", b"#!/bin/sh\n")


def blocks(content: bytes) -> Iterator[bytes]:
    """Yield *content* in pieces that do not fit volumes."""
    for start in range(0, len(content), 7):
        yield content[start : start + 7]


def write(directory: Path, content: bytes, size: int) -> Written:
    return write_volumes(directory / NAME, blocks(content), size, SCRIPT)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize(
    ("text", "size"),
    [("1M", 1024**2), ("4G", 4 * 1024**3), (" 700m ", 700 * 1024**2), ("2048K", 2 * 1024**2), ("1024K", 1024**2)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4", "4GB", "4 G", "-4G", "1.5G", "0x4G", "T", "4T", "G4", "٤G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match=r"--split-size wants a number and K, M or G, such as 700M or 4G"):
        parse_size(text)


@pytest.mark.parametrize("text", ["0G", "1K", "1023K"])
def test_sizes_that_are_too_small(text: str) -> None:
    with pytest.raises(UsageError, match=f"--split-size {text} is too small for a volume: give 1M or more"):
        parse_size(text)


@pytest.mark.parametrize(
    ("length", "sizes"),
    [(0, [0]), (1, [1]), (98, [98]), (99, [99]), (100, [99, 1]), (198, [99, 99]), (199, [99, 99, 1])],
)
def test_every_volume_is_smaller_than_the_size(tmp_path: Path, length: int, sizes: list[int]) -> None:
    content = os.urandom(length)
    written = write(tmp_path, content, 100)
    assert written == Written(tmp_path / f"{NAME}.sha256", len(sizes), length)
    made = [tmp_path / f"{NAME}.{number:03}" for number in range(1, len(sizes) + 1)]
    assert [path.stat().st_size for path in made] == sizes
    assert b"".join(path.read_bytes() for path in made) == content
    assert names(tmp_path) == [*(path.name for path in made), f"{NAME}.sha256", SCRIPT[0]]


def test_sha256sum_reads_the_index_and_cat_joins_the_volumes(tmp_path: Path) -> None:
    content = os.urandom(300)
    write(tmp_path, content, 100)
    check = ["sha256sum", "--check", "--strict", "--quiet", "--ignore-missing", f"{NAME}.sha256"]
    subprocess.run(check, cwd=tmp_path, check=True)
    subprocess.run(f"cat {NAME}.[0-9]* > {NAME}", shell=True, cwd=tmp_path, check=True)  # noqa: S602  as one types it
    assert (tmp_path / NAME).read_bytes() == content
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", f"{NAME}.sha256"], cwd=tmp_path, check=True)


def test_more_than_999_volumes_still_sort(tmp_path: Path) -> None:
    content = os.urandom(1001)
    assert write(tmp_path, content, 2).volumes == 1001
    made = sorted(path for path in tmp_path.iterdir() if path.name[-1].isdigit() and ".tar.gz." in path.name)[:1001]
    assert made[0].name == f"{NAME}.0001"
    assert b"".join(path.read_bytes() for path in made if path.suffix != ".sha256") == content
    found = find_volumes([tmp_path])
    assert found is not None
    assert b"".join(found.blocks()) == content


def test_volumes_of_an_earlier_build_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, os.urandom(1000), 100)
    (tmp_path / "other.tar.gz.001").touch()
    (tmp_path / SCRIPT[0]).write_bytes(b"an older one")
    content = os.urandom(150)
    write(tmp_path, content, 100)
    assert names(tmp_path) == [f"{NAME}.001", f"{NAME}.002", f"{NAME}.sha256", SCRIPT[0], "other.tar.gz.001"]
    assert (tmp_path / SCRIPT[0]).read_bytes() == SCRIPT[1]
    assert (tmp_path / SCRIPT[0]).stat().st_mode & 0o777 == 0o755


def test_an_error_leaves_the_volumes_that_were_there(tmp_path: Path) -> None:
    write(tmp_path, b"a" * 150, 100)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def failing() -> Iterator[bytes]:
        yield b"b" * 150
        raise VerificationError("damaged")

    with pytest.raises(VerificationError, match="damaged"):
        write_volumes(tmp_path / NAME, failing(), 100, SCRIPT)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_killed_while_names_are_given_there_is_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, b"a" * 350, 100)
    replace = Path.replace

    def die(self: Path, target: Path) -> Path:
        if target.name.endswith(".003"):
            os._exit(9)
        return replace(self, target)

    child = os.fork()
    if not child:
        monkeypatch.setattr(Path, "replace", die)
        write(tmp_path, b"b" * 350, 100)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    with pytest.raises(VerificationError, match=rf"index {NAME}.sha256 is not beside them"):
        find_volumes([tmp_path])
    monkeypatch.undo()
    write(tmp_path, b"b" * 250, 100)
    assert names(tmp_path) == [f"{NAME}.001", f"{NAME}.002", f"{NAME}.003", f"{NAME}.sha256", SCRIPT[0]]


def test_a_plain_archive_takes_the_place_of_volumes(tmp_path: Path) -> None:
    write(tmp_path, os.urandom(350), 100)
    (tmp_path / "other.tar.gz.001").touch()
    make_archive(tmp_path / NAME)
    assert names(tmp_path) == [NAME, SCRIPT[0], "other.tar.gz.001"]


def test_volumes_take_the_place_of_a_plain_archive(tmp_path: Path) -> None:
    make_archive(tmp_path / NAME)
    write(tmp_path, os.urandom(150), 100)
    assert names(tmp_path) == [f"{NAME}.001", f"{NAME}.002", f"{NAME}.sha256", SCRIPT[0]]


def test_a_checksum_beside_a_plain_archive_is_somebodys_own(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.sha256").write_text(f"{'0' * 64}  {NAME}\n")
    make_archive(tmp_path / NAME)
    assert names(tmp_path) == [NAME, f"{NAME}.sha256"]


def is_whole(directory: Path, plain: bool) -> bool:
    try:
        verify(directory / (NAME if plain else f"{NAME}.sha256"))
    except VerificationError:
        return False
    return True


@pytest.mark.parametrize("plain", [True, False])
def test_killed_at_any_moment_the_old_or_the_new_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    def build(directory: Path, plain: bool) -> None:
        if plain:
            make_archive(directory / NAME)
        else:
            write_volumes(directory / NAME, archive_blocks(make_entries()), 25_000, SCRIPT)

    steps = 0
    while True:
        directory = tmp_path / str(steps)
        build(directory, not plain)
        child = os.fork()
        if not child:
            left = steps

            def count(real: Callable[..., object]) -> Callable[..., object]:
                def step(*arguments: object, **options: object) -> object:
                    nonlocal left
                    if not left:
                        os._exit(9)
                    left -= 1
                    return real(*arguments, **options)

                return step

            monkeypatch.setattr(Path, "replace", count(Path.replace))
            monkeypatch.setattr(Path, "unlink", count(Path.unlink))
            build(directory, plain)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert is_whole(directory, plain=True) or is_whole(directory, plain=False)
        if not status:
            break
        assert status == 9
        steps += 1
    assert steps >= 6
    assert is_whole(directory, plain=plain)
    assert not is_whole(directory, plain=not plain)


def test_a_build_with_volumes_and_one_without_exclude_each_other(tmp_path: Path) -> None:
    def other() -> Iterator[bytes]:
        with pytest.raises(AirgapError, match="Another build is writing"):
            make_archive(tmp_path / NAME)
        yield b"x"

    write_volumes(tmp_path / NAME, other(), 100, SCRIPT)


@pytest.fixture
def discs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A bundle in volumes, on three discs, out of order."""
    home = tmp_path / "home"
    written = write_volumes(home / NAME, archive_blocks(make_entries()), 25_000, SCRIPT)
    assert written.volumes == 5
    discs = [tmp_path / f"disc{number}" for number in range(3)]
    for disc, numbers in zip(discs, ((4, 1), (5,), (2, 3)), strict=True):
        disc.mkdir()
        for number in numbers:
            shutil.copy(home / f"{NAME}.{number:03}", disc)
    shutil.copy(home / f"{NAME}.sha256", discs[1])
    return [*discs, home]


def test_volumes_are_verified_wherever_they_are(discs: list[Path], tmp_path: Path) -> None:
    *three, home = discs
    receipt = verify(make_archive(tmp_path / "plain.tar.gz")).receipt
    assert verify(*three).receipt == receipt
    assert verify(*reversed(three)).receipt == receipt
    for place in (home, home / f"{NAME}.sha256", home / f"{NAME}.003"):
        assert verify(place).receipt == receipt
    assert verify(three[0], three[1] / f"{NAME}.005", three[2]).receipt == receipt
    joined = tmp_path / "joined.tar.gz"
    joined.write_bytes(b"".join((home / f"{NAME}.{number:03}").read_bytes() for number in range(1, 6)))
    assert sha256_of_file(joined) == (home / f"{NAME}.sha256").read_text().splitlines()[-1].split()[0]
    assert joined.read_bytes() == (tmp_path / "plain.tar.gz").read_bytes()


def test_missing_volumes_are_named(discs: list[Path]) -> None:
    with pytest.raises(VerificationError, match=rf"2 of the 5 volumes are missing \({NAME}.002, {NAME}.003\): copy"):
        verify(*discs[:2])


@pytest.mark.parametrize("position", [0, 100, -1])
def test_damaged_volumes_are_named(discs: list[Path], position: int) -> None:
    for path in (discs[0] / f"{NAME}.004", discs[2] / f"{NAME}.002"):
        content = bytearray(path.read_bytes())
        content[position] ^= 1
        path.write_bytes(content)
    with pytest.raises(VerificationError, match=rf"disc2/{NAME}.002, .*disc0/{NAME}.004: damaged, copy it over again"):
        verify(*discs[:3])


def test_a_truncated_volume_is_named(discs: list[Path]) -> None:
    os.truncate(discs[1] / f"{NAME}.005", 10)
    with pytest.raises(VerificationError, match=rf"disc1/{NAME}.005: damaged"):
        verify(*discs[:3])


def test_a_missing_index(discs: list[Path]) -> None:
    (discs[1] / f"{NAME}.sha256").unlink()
    with pytest.raises(VerificationError, match=f"index {NAME}.sha256 is not beside them: copy it over"):
        verify(*discs[:3])


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [],
        lambda lines: lines[-1:],
        lambda lines: lines[1:],
        lambda lines: lines[:-1],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [*lines[:2], "what\n", *lines[2:]],
        lambda lines: [line.replace("bundle", "../bundle") for line in lines],
    ],
)
def test_a_damaged_index(discs: list[Path], damage: object) -> None:
    index = discs[1] / f"{NAME}.sha256"
    index.write_text("".join(damage(index.read_text().splitlines(keepends=True))))  # type: ignore[operator]
    with pytest.raises(VerificationError, match=f"disc1/{NAME}.sha256 is no index of volumes, or a damaged one"):
        verify(*discs[:3])


def test_volumes_of_two_bundles_are_not_mixed(discs: list[Path]) -> None:
    write_volumes(discs[0] / NAME, archive_blocks(make_entries({"a.whl": b"x" * 60_000})), 25_000, SCRIPT)
    with pytest.raises(VerificationError, match="are of different bundles"):
        verify(*discs[:3])


def test_several_places_are_for_volumes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_archive(tmp_path / name / "a.tar.gz")
    with pytest.raises(VerificationError, match="Only volumes can be in several places"):
        verify(tmp_path / "a/a.tar.gz", tmp_path / "b/a.tar.gz")


def test_a_directory_without_volumes_is_none_of_theirs(tmp_path: Path) -> None:
    make_archive(tmp_path / "a.tar.gz")
    (tmp_path / "a.tar.gz.sha256").write_text(f"{'0' * 64}  a.tar.gz\n")
    assert find_volumes([tmp_path]) is None
    assert find_volumes([tmp_path / "a.tar.gz"]) is None
    assert verify(tmp_path / "a.tar.gz").receipt.files == 6


def test_an_index_alone_says_what_is_missing(discs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    shutil.copy(discs[1] / f"{NAME}.sha256", tmp_path / "alone")
    with pytest.raises(VerificationError, match="5 of the 5 volumes are missing"):
        verify(tmp_path / "alone")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_cut", full)
    with pytest.raises(AirgapError, match=r"could not be written \(No space left on device\): make room"):
        write(tmp_path, b"x", 100)
    assert not list(tmp_path.iterdir())
