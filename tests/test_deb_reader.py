from __future__ import annotations

import lzma
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pytest
from debs import make_deb

from airgap import deb_reader
from airgap.deb_reader import CopyrightFile, read_copyright
from airgap.errors import ResolutionError


@pytest.mark.parametrize("compression", ["gzip", "xz", "zstd", "none"])
def test_reads_the_copyright_file_whatever_the_compression(tmp_path: Path, compression: str) -> None:
    files = {
        "usr/bin/a": "x" * 1_000_000,
        "usr/share/doc/other/copyright": "another's",
        "usr/share/doc/a/copyright": "mine, © me",
        "usr/share/zoo/a": "y" * 1_000_000,
    }
    deb = make_deb(tmp_path, "a", files=files, compression=compression)
    assert read_copyright(deb, "a") == CopyrightFile(text="mine, © me")


@pytest.mark.parametrize(
    ("path", "destination"), [("usr/share/doc/a", "a-base"), ("usr/share/doc/a/copyright", "../a-base/copyright")]
)
def test_follows_links_to_another_package(tmp_path: Path, path: str, destination: str) -> None:
    deb = make_deb(tmp_path, "a", links={path: destination})
    assert read_copyright(deb, "a") == CopyrightFile(package="a-base")


def test_a_package_without_one(tmp_path: Path) -> None:
    assert read_copyright(make_deb(tmp_path, "a", files={"usr/bin/a": "x"}), "a") == CopyrightFile()


@pytest.fixture
def no_dpkg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deb_reader, "_read_with_dpkg", lambda deb, package: pytest.fail("dpkg-deb was run"))


def in_xz_blocks(deb: Path, size: int) -> None:
    """Compress the files of the package *deb* anew, in blocks of *size* bytes, as dpkg-deb does with large packages."""
    if shutil.which("xz") is None:
        pytest.skip("needs xz")
    content = deb.read_bytes()
    place = content.index(b"data.tar.xz ")
    data = subprocess.run(
        ["xz", "--threads=2", f"--block-size={size}", "--check=crc32"],
        input=lzma.decompress(content[place + 60 :].rstrip(b"\n")),
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    header = content[place : place + 48] + f"{len(data):<10}`\n".encode()
    deb.write_bytes(content[:place] + header + data)


@pytest.mark.usefixtures("no_dpkg")
@pytest.mark.parametrize("size", [1_000_000, 8192, 5000, 512 * 3 + 100])
@pytest.mark.parametrize("text", ["mine", "long " * 5000])
def test_only_the_blocks_at_the_end_are_decompressed(tmp_path: Path, size: int, text: str) -> None:
    files = {
        "usr/bin/a": "x" * 30_000,
        "usr/share/doc/a/copyright": text,
        "usr/share/doc/a/examples": "./usr/share/doc/a/copyright\0" * 40,
        "usr/share/zoo": "y" * 20_000,
    }
    deb = make_deb(tmp_path, "a", files=files)
    in_xz_blocks(deb, size)
    assert read_copyright(deb, "a") == CopyrightFile(text=text)
    assert read_copyright(deb, "b") == CopyrightFile()


def test_a_file_at_the_end_needs_no_other_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deb = make_deb(tmp_path, "a", files={"usr/bin/a": "x" * 200_000, "usr/share/doc/a/copyright": "mine"})
    in_xz_blocks(deb, 40_000)
    decompressed: list[int] = []
    original = deb_reader._decompressed

    def count(stream: IO[bytes], blocks: Sequence[Any]) -> Iterator[bytes]:
        for piece in original(stream, blocks):
            decompressed.append(len(piece))
            yield piece

    monkeypatch.setattr(deb_reader, "_decompressed", count)
    assert read_copyright(deb, "a") == CopyrightFile(text="mine")
    assert sum(decompressed) <= 40_000


def test_what_is_truncated_is_left_to_dpkg(tmp_path: Path) -> None:
    deb = make_deb(tmp_path, "a", files={"usr/bin/a": "x" * 100, "usr/share/doc/a/copyright": "mine"})
    deb.write_bytes(deb.read_bytes()[:-40])
    with pytest.raises(ResolutionError, match="cannot read a's package"):
        read_copyright(deb, "a")


def test_what_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "a.deb").write_bytes(b"!<arch>\nno package")
    with pytest.raises(ResolutionError, match="cannot read a's package"):
        read_copyright(tmp_path / "a.deb", "a")


def test_without_dpkg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResolutionError, match="dpkg-deb is not on this host"):
        read_copyright(tmp_path / "a.deb", "a")
