"""Files that appear whole, once, and readable."""

from __future__ import annotations

from pathlib import Path

import pytest
from sites import digest

from airgap.durable import has_content, make_directories, place, remove, write
from airgap.errors import InstallationError

CONTENT = b"content"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("link", [True, False])
def test_a_file_is_placed_once_and_readable(source: Path, tmp_path: Path, link: bool) -> None:
    path = tmp_path / "a" / "b"
    assert place(source, path, digest(CONTENT), link=link)
    assert not place(source, path, digest(CONTENT), link=link)
    assert path.samefile(source) == link
    assert path.stat().st_mode & 0o7777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["b"]


def test_linking_makes_equal_files_one(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "b"
    path.write_bytes(CONTENT)
    assert not place(source, path, digest(CONTENT), link=True)
    assert path.samefile(source)


def test_another_content_than_promised_does_not_appear(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InstallationError, match="was changed while it was installed"):
        place(source, tmp_path / "b", digest(b"promised"), link=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]


def test_writing_replaces_and_does_not_follow_links(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "b"
    path.symlink_to(source)
    assert not has_content(path, digest(CONTENT))
    assert write(path, b"new")
    assert source.read_bytes() == CONTENT
    assert path.read_bytes() == b"new"
    assert not write(path, b"new")


def test_removing_takes_empty_directories_along_and_no_others(tmp_path: Path) -> None:
    make_directories(tmp_path / "a/b/c")
    for name in ("a/x", "a/b/c/y"):
        (tmp_path / name).touch()
    remove(tmp_path / "a/b/c/y", tmp_path)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]
    remove(tmp_path / "a/x", tmp_path)
    assert list(tmp_path.iterdir()) == []
