from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from bundles import make_archive, unpack

from airgap.bundle_head import read_head, read_manifest
from airgap.errors import VerificationError
from airgap.volumes import write_volumes


def test_an_archive_a_directory_and_the_manifest_itself_tell_the_same(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz")
    directory = unpack(archive, tmp_path)
    expected = (directory / "manifest.json").read_bytes()
    plain = tmp_path / "a.tar"
    plain.write_bytes(gzip.decompress(archive.read_bytes()))
    for path in (archive, directory, directory / "manifest.json", plain):
        assert read_manifest(path) == expected
    assert read_head([archive], ["README.md", "nothing"]) == {"README.md": b"read me\n"}
    assert read_head([directory], ["README.md", "nothing"]) == {"README.md": b"read me\n"}


def test_volumes_in_several_directories(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz")
    expected = read_manifest(archive)
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    write_volumes(first / "a.tar.gz", [archive.read_bytes()], 40_000, ("install-pag-controller.sh", b""))
    assert read_manifest(first) == expected
    (first / "a.tar.gz.002").rename(second / "a.tar.gz.002")
    assert read_head([second, first], ["manifest.json"]) == {"manifest.json": expected}


def test_reads_no_more_than_the_head(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz")
    expected = read_manifest(archive)
    archive.write_bytes(archive.read_bytes()[:-90_000])
    assert read_manifest(archive) == expected


@pytest.mark.parametrize(
    "content", [b"", b"no bundle", b"\x1f\x8b\x08\x00broken", gzip.compress(b"no bundle", mtime=0)]
)
def test_what_is_no_bundle(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    with pytest.raises(VerificationError, match=r"a\.tar\.gz (is no bundle|has no manifest)"):
        read_manifest(path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="has no manifest"):
        read_manifest(tmp_path)
    with pytest.raises(VerificationError, match="does not exist"):
        read_manifest(tmp_path / "nowhere")
