from __future__ import annotations

import fcntl
import resource
import tarfile
from pathlib import Path

import pytest
from bundles import FILES, make_archive

from airgap.archive import FIXED_TIME, Entry, write_archive
from airgap.errors import AirgapError, VerificationError
from airgap.hashing import sha256_of_bytes


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    one = make_archive(tmp_path / "one.tar.gz")
    two = make_archive(tmp_path / "two.tar.gz", dict(reversed(FILES.items())))
    assert one.read_bytes() == two.read_bytes()


def test_entries_are_sorted_and_say_nothing_of_the_builder(tmp_path: Path) -> None:
    with tarfile.open(make_archive(tmp_path / "a.tar.gz")) as tar:
        members = tar.getmembers()
    files = [member.name for member in members if member.isfile()]
    assert files == sorted(files)
    assert len({member.name for member in members}) == len(members)
    for member in members:
        assert member.name.split("/")[0] == "pag-software-bundle"
        assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, "root", "root", FIXED_TIME)
        expected = 0o755 if member.isdir() or member.name.endswith(".sh") else 0o644
        assert member.mode == expected, member.name


def test_packages_are_not_compressed_again(tmp_path: Path) -> None:
    size = sum(map(len, FILES.values()))
    assert size < make_archive(tmp_path / "a.tar.gz").stat().st_size < size + 30_000


def entry(path: Path, content: bytes) -> Entry:
    path.write_bytes(content)
    return Entry("a", sha256_of_bytes(content), len(content), path)


@pytest.mark.parametrize("changed", [b"evil!", b"short", b"longer than it was"])
def test_a_file_that_changed_in_the_cache_is_refused(tmp_path: Path, changed: bytes) -> None:
    output = tmp_path / "a.tar.gz"
    output.write_bytes(b"the old one")
    wanted = entry(tmp_path / "cached", b"right!")
    (tmp_path / "cached").write_bytes(changed)
    with pytest.raises(VerificationError, match="changed in the cache"):
        write_archive(output, [wanted])
    assert output.read_bytes() == b"the old one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "cached"]


def test_an_interrupted_write_leaves_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = make_archive(tmp_path / "a.tar.gz")
    before = output.read_bytes()

    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tarfile.TarFile, "addfile", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_archive(output)
    assert output.read_bytes() == before
    assert list(tmp_path.iterdir()) == [output]


def test_what_a_killed_build_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".a.tar.gz.part").write_bytes(b"x" * 1_000_000)
    left = make_archive(tmp_path / "a.tar.gz").read_bytes()
    assert left == make_archive(tmp_path / "b.tar.gz").read_bytes()


def test_two_builds_do_not_write_the_same_output(tmp_path: Path) -> None:
    with (tmp_path / ".a.tar.gz.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(AirgapError, match="Another build is writing"):
            make_archive(tmp_path / "a.tar.gz")


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AirgapError, match="cannot be written to"):
        make_archive(tmp_path / "file" / "a.tar.gz")


def test_a_full_disk(tmp_path: Path) -> None:
    output = tmp_path / "a.tar.gz"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(AirgapError, match=r"could not be written .*: make room"):
            make_archive(output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
