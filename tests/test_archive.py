from __future__ import annotations

import fcntl
import gzip
import os
import resource
import subprocess
import tarfile
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from bundles import FILES, make_archive

from airgap import output as output_module
from airgap.archive import FIXED_TIME, Entry, archive_blocks, write_archive
from airgap.errors import AirgapError, VerificationError
from airgap.hashing import sha256_of_bytes


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    one = make_archive(tmp_path / "one.tar.gz")
    two = make_archive(tmp_path / "two.tar.gz", dict(reversed(FILES.items())))
    assert one.read_bytes() == two.read_bytes()


def test_the_lists_come_first_then_the_texts_then_the_packages(tmp_path: Path) -> None:
    files = {"mirror/a.whl": b"a", "mirror/apt/b.deb": b"b", "mirror/apt/Packages": b"c", "z": b"z", "A": b"A"}
    with tarfile.open(make_archive(tmp_path / "a.tar.gz", files)) as tar:
        names = [member.name.removeprefix("pag-software-bundle/") for member in tar.getmembers() if member.isfile()]
    assert names == [
        "manifest.json", "SHA256SUMS", "A", "mirror/apt/Packages", "z", "mirror/a.whl", "mirror/apt/b.deb",
    ]  # fmt: skip


def test_members_say_nothing_of_the_builder(tmp_path: Path) -> None:
    with tarfile.open(make_archive(tmp_path / "a.tar.gz")) as tar:
        members = tar.getmembers()
    assert len({member.name for member in members}) == len(members)
    for member in members:
        assert member.name.split("/")[0] == "pag-software-bundle"
        assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, "root", "root", FIXED_TIME)
        expected = 0o755 if member.isdir() or member.name.endswith(".sh") else 0o644
        assert member.mode == expected, member.name


def test_texts_are_compressed_and_packages_are_not(tmp_path: Path) -> None:
    text, package = b"the same again " * 20_000, b"\0" * 300_000
    size = make_archive(tmp_path / "a.tar.gz", {"text": text, "a.whl": package}).stat().st_size
    assert len(package) < size < len(package) + 15_000
    content = (tmp_path / "a.tar.gz").read_bytes()
    first = zlib.decompressobj(31)
    assert b"the same again" in first.decompress(content)
    # The second member's deflate blocks are stored: the package is there as it is, in pieces.
    assert first.unused_data.count(b"\0" * 65_535) == 4


def entry(path: Path, content: bytes, package: bool = True) -> Entry:
    path.write_bytes(content)
    return Entry(path.name, sha256_of_bytes(content), len(content), path, package=package)


def test_gzip_and_tar_read_it(tmp_path: Path) -> None:
    # Around the sizes of blocks: of tar, of deflate, and of what is read at a time.
    sizes = [0, 1, 511, 512, 513, 65_534, 65_535, 65_536, 16 * 65_535, 16 * 65_535 + 1, 2_500_000]
    contents = {f"f{size}": os.urandom(size) for size in sizes}
    entries = [
        entry(tmp_path / f"{name}{kind}", content, package=kind == "p")
        for name, content in contents.items()
        for kind in "pt"
    ]
    output = tmp_path / "a.tar.gz"
    assert write_archive(output, entries) == output.stat().st_size
    subprocess.run(["gzip", "--test", output], check=True)
    (tmp_path / "there").mkdir()
    subprocess.run(["tar", "-xf", output, "-C", tmp_path / "there"], check=True)
    for name, content in contents.items():
        for kind in "pt":
            assert (tmp_path / f"there/pag-software-bundle/{name}{kind}").read_bytes() == content
    plain = gzip.decompress(output.read_bytes())
    assert len(plain) % tarfile.RECORDSIZE == 0
    assert plain.endswith(bytes(1024))


def test_names_are_utf_8_and_as_long_as_they_are(tmp_path: Path) -> None:
    files = {"flows/demo/ä.txt": b"", "a/" + 40 * "long/" + 60 * "x": b""}
    with tarfile.open(make_archive(tmp_path / "a.tar.gz", files), encoding="utf-8") as tar:
        assert {f"pag-software-bundle/{path}" for path in files} < set(tar.getnames())


@pytest.mark.parametrize("changed", [b"evil!", b"short", b"longer than it was"])
def test_a_file_that_changed_in_the_cache_is_refused(tmp_path: Path, changed: bytes) -> None:
    output = tmp_path / "a.tar.gz"
    output.write_bytes(b"the old one")
    wanted = entry(tmp_path / "cached", b"right!")
    (tmp_path / "cached").write_bytes(changed)
    with pytest.raises(VerificationError, match="cached changed in the cache"):
        write_archive(output, [wanted])
    assert output.read_bytes() == b"the old one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "cached"]


def test_an_interrupted_write_leaves_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = make_archive(tmp_path / "a.tar.gz")
    before = output.read_bytes()

    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_archive(output)
    assert output.read_bytes() == before
    assert list(tmp_path.iterdir()) == [output]


def test_what_a_killed_build_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".a.tar.gz.part").write_bytes(b"x" * 1_000_000)
    (tmp_path / ".a.tar.gz.part.7").write_bytes(b"of a build with volumes")
    left = make_archive(tmp_path / "a.tar.gz").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]
    assert left == make_archive(tmp_path / "b.tar.gz").read_bytes()


def test_two_builds_do_not_write_the_same_output(tmp_path: Path) -> None:
    with (tmp_path / ".a.tar.gz.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(AirgapError, match="Another build is writing"):
            make_archive(tmp_path / "a.tar.gz")


def test_a_build_that_ends_while_another_waits_for_its_lock_keeps_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "a.tar.gz"
    lock = fcntl.flock

    def finish_the_other(descriptor: int, operation: int) -> None:
        # The file was opened, and now the other build gives it its name.
        monkeypatch.setattr(output_module.fcntl, "flock", lock)
        (tmp_path / ".a.tar.gz.part").write_bytes(b"the other's")
        (tmp_path / ".a.tar.gz.part").rename(tmp_path / "others.tar.gz")
        lock(descriptor, operation)

    monkeypatch.setattr(output_module.fcntl, "flock", finish_the_other)
    make_archive(output)
    assert (tmp_path / "others.tar.gz").read_bytes() == b"the other's"
    assert tarfile.is_tarfile(output)


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


def test_files_of_more_than_eight_gigabytes_are_listed_as_gnu_does() -> None:
    blocks = archive_blocks([Entry("big.whl", "0" * 64, 9 * 1024**3, b"", package=True)])
    content = b""
    with suppress(VerificationError):
        for block in blocks:
            content += block
    second = zlib.decompressobj(31)
    second.decompress(content)
    plain = zlib.decompressobj(31).decompress(second.unused_data)
    assert tarfile.TarInfo.frombuf(plain[-512:], "utf-8", "strict").size == 9 * 1024**3
