from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers import serve
from wheels import make_wheel, simple_page

from airgap.cache import Cache
from airgap.errors import DownloadError, ResolutionError
from airgap.fetch import Fetcher
from airgap.hashing import sha256_of_bytes
from airgap.network import Network
from airgap.sources.interface import Download
from airgap.sources.package_index import IndexPageError, PackageIndex, parse_page
from airgap.sources.requirements_file import LockedRequirement

WHEEL = make_wheel("a", "1")
NAME = "a-1-py3-none-any.whl"
LOCKED = LockedRequirement("a", "1", frozenset({sha256_of_bytes(WHEEL)}))


def index(url: str, cache: Path) -> PackageIndex:
    return PackageIndex(Network(indexes=(url,), timeout=5), cache)


def test_reads_json() -> None:
    page = {
        "files": [
            {"filename": NAME, "url": f"../../files/{NAME}", "hashes": {"sha256": "0" * 64}, "size": 5},
            {"filename": "a-0.whl", "url": "a-0.whl", "hashes": {"md5": "0"}},
        ]
    }
    (file,) = parse_page(
        json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json", "https://i.invalid/simple/a/"
    )
    assert (file.file_name, file.url, file.sha256, file.size) == (NAME, f"https://i.invalid/files/{NAME}", "0" * 64, 5)


def test_reads_html_with_a_base() -> None:
    page = (
        b'<html><head><base href="/files/"></head><a href="a%2Bcpu.whl#sha256=AB">x</a><a href="b#md5=1">b</a></html>'
    )
    (file,) = parse_page(page, "text/html; charset=utf-8", "https://i.invalid/simple/a/")
    assert (file.file_name, file.url, file.sha256, file.size) == (
        "a+cpu.whl",
        "https://i.invalid/files/a%2Bcpu.whl",
        "ab",
        None,
    )


@pytest.mark.parametrize("content", [b"no json", b"{}", b'{"files": [{}]}', b"[]"])
def test_refuses_json_of_another_kind(content: bytes) -> None:
    with pytest.raises(IndexPageError, match="no list of files"):
        parse_page(content, "application/json", "https://me:secret@i.invalid/simple/a/")


def test_an_answer_is_remembered_without_the_network(tmp_path: Path) -> None:
    with serve(files={"/simple/a/": simple_page({NAME: WHEEL})}) as server:
        first = index(f"{server.url}/simple", tmp_path).files(LOCKED)
        url = server.url
    assert first[0].url == f"{url}/files/{NAME}"
    assert index(f"{url}/simple", tmp_path).files(LOCKED) == first


def test_addresses_with_credentials_are_not_remembered(tmp_path: Path) -> None:
    with serve(files={"/simple/a/": simple_page({NAME: WHEEL})}) as server:
        address = server.url.replace("//", "//me:secret@") + "/simple"
        assert index(address, tmp_path).files(LOCKED)
    assert not list(tmp_path.rglob("*.json"))


def test_further_indexes_are_asked_when_the_first_has_it_not(tmp_path: Path) -> None:
    page = tmp_path / "more" / "a"
    page.mkdir(parents=True)
    (page / "index.html").write_bytes(simple_page({NAME: WHEEL}))
    with serve() as server:
        network = Network(indexes=(f"{server.url}/simple", (tmp_path / "more").as_uri()), timeout=5)
        (file,) = PackageIndex(network, tmp_path / "cache").files(LOCKED)
    assert file.url == f"{tmp_path.as_uri()}/files/{NAME}"


def test_files_with_other_hashes_are_as_good_as_none(tmp_path: Path) -> None:
    with (
        serve(files={"/simple/a/": simple_page({NAME: b"other"})}) as server,
        pytest.raises(ResolutionError, match="a 1: the package index has none of the files"),
    ):
        index(f"{server.url}/simple", tmp_path).files(LOCKED)


def test_an_index_that_refuses_is_named_without_credentials(tmp_path: Path) -> None:
    with serve(statuses=[401]) as server, pytest.raises(ResolutionError, match="answered 401") as raised:
        index(server.url.replace("//", "//me:secret@") + "/simple", tmp_path).files(LOCKED)
    assert "secret" not in str(raised.value)


PORTAL = b"<!DOCTYPE html><html><body><a href='/login'>Please log in</a></body></html>"


def test_a_login_page_is_named(tmp_path: Path) -> None:
    with serve(page=PORTAL) as server, pytest.raises(ResolutionError) as raised:
        index(f"{server.url}/simple", tmp_path).files(LOCKED)
    assert f"{server.url} sent a web page that is no list of files, as a network's login page would be" in str(
        raised.value
    )
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("page", [b"", b'<html><meta name="pypi:repository-version" content="1.0"></html>'])
def test_a_page_without_files_is_none_of_a_login(page: bytes) -> None:
    assert parse_page(page, "text/html", "https://i.invalid/simple/a/") == []


@pytest.mark.parametrize("manners", [{"page": PORTAL}, {"statuses": [403] * 9}])
def test_an_index_that_fails_is_left_for_the_next_one(tmp_path: Path, manners: dict[str, object]) -> None:
    other = make_wheel("b", "1")
    locked = [LOCKED, LockedRequirement("b", "1", frozenset({sha256_of_bytes(other)}))]
    pages = {"/simple/a/": simple_page({NAME: WHEEL}), "/simple/b/": simple_page({"b-1-py3-none-any.whl": other})}
    with serve(**manners) as bad, serve(files=pages) as good:
        network = Network(indexes=(f"{bad.url}/simple", f"{good.url}/simple"), timeout=5)
        source = PackageIndex(network, tmp_path)
        assert source.files(locked[0])[0].url.startswith(good.url)
        asked = len(bad.requests)
        assert source.files(locked[1])
        assert len(bad.requests) == asked


def test_an_index_that_trickles_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airgap.sources.package_index._LONGEST_ANSWER", 0.1)
    monkeypatch.setattr("airgap.sources.package_index._ATTEMPTS", 1)
    page = simple_page({NAME: WHEEL}) + b" " * 100_000
    with (
        serve(files={"/simple/a/": page}, trickle=threading.Event()) as server,
        pytest.raises(ResolutionError, match="breaks its answers off"),
    ):
        index(f"{server.url}/simple", tmp_path).files(LOCKED)


def test_a_page_is_asked_for_once(tmp_path: Path) -> None:
    with serve(files={"/simple/a/": simple_page({NAME: WHEEL})}) as server:
        source = index(f"{server.url}/simple", tmp_path)
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(source.files, [LOCKED] * 4))
    assert len(server.requests) == 1


def test_a_wheel_that_one_index_does_not_give_comes_from_the_next(tmp_path: Path) -> None:
    page = {"/simple/a/": simple_page({NAME: WHEEL})}
    with serve(files=page) as broken, serve(files=page | {f"/files/{NAME}": WHEEL}) as whole:
        network = Network(indexes=(f"{broken.url}/simple", f"{whole.url}/simple"), timeout=5)
        packages = PackageIndex(network, tmp_path)
        (file,) = packages.files(LOCKED)
        assert file.url.startswith(broken.url)
        assert not whole.requests
        wheel = Download(file.url, f"mirror/pypi/{NAME}", file.sha256, None, "wheel", "a", "1")
        fetcher = Fetcher(Cache(tmp_path / "cache"), network, elsewhere=packages.elsewhere)
        assert fetcher.fetch([wheel])[wheel.path].read_bytes() == WHEEL
        del whole.files[f"/files/{NAME}"]
        again = Fetcher(Cache(tmp_path / "other"), network, elsewhere=packages.elsewhere)
        with pytest.raises(DownloadError, match=rf"from {broken.url} \(.*404\), nor from {whole.url} \("):
            again.fetch([wheel])
