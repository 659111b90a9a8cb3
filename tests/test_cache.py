from __future__ import annotations

from pathlib import Path

import pytest

from airgap.cache import Cache, default_cache
from airgap.hashing import sha256_of_bytes

SHA256 = sha256_of_bytes(b"content")


def test_stores_and_finds_by_hash(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert cache.lookup(SHA256) is None
    path = cache.store(b"content")
    assert path == tmp_path / "sha256" / SHA256[:2] / SHA256
    assert cache.lookup(SHA256) == cache.store(b"content") == path
    assert not list((tmp_path / "partial").iterdir())


def test_a_damaged_file_is_no_hit_and_is_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    path = cache.store(b"content")
    path.write_bytes(b"contend")
    assert cache.lookup(SHA256) is None
    assert not path.exists()


@pytest.mark.parametrize("size", [None, 7])
def test_what_is_hashed_later_need_only_be_there(tmp_path: Path, size: int | None) -> None:
    cache = Cache(tmp_path)
    assert cache.present(SHA256, size) is None
    path = cache.store(b"content")
    path.write_bytes(b"contend")
    assert cache.present(SHA256, size) == path


def test_a_file_of_another_size_is_not_present_and_is_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    path = cache.store(b"content")
    assert cache.present(SHA256, 8) is None
    assert not path.exists()


def test_the_default_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "pag"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_cache() == Path("/home/me/.cache/pag")
