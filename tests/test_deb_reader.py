from __future__ import annotations

from pathlib import Path

import pytest
from debs import make_deb

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


def test_what_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "a.deb").write_bytes(b"!<arch>\nno package")
    with pytest.raises(ResolutionError, match="cannot read a's package"):
        read_copyright(tmp_path / "a.deb", "a")


def test_without_dpkg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResolutionError, match="dpkg-deb is not on this host"):
        read_copyright(tmp_path / "a.deb", "a")
