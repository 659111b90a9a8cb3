from __future__ import annotations

import threading
from pathlib import Path

import pytest
from servers import FileServer, serve

from airgap.cache import Cache
from airgap.errors import DownloadError
from airgap.fetch import Fetcher, FetchOptions
from airgap.hashing import sha256_of_bytes
from airgap.network import Network
from airgap.progress import Progress
from airgap.sources.interface import Download

CONTENT = bytes(range(256)) * 4096  # 1 MiB: several blocks


def download(url: str, content: bytes = CONTENT, size: int | None = None, name: str = "a.whl") -> Download:
    return Download(url, f"mirror/pypi/{name}", sha256_of_bytes(content), size, "wheel", "a", "1")


def fetcher(cache: Cache, progress: Progress | None = None, attempts: int = 3) -> Fetcher:
    return Fetcher(cache, Network(timeout=5), progress, FetchOptions(workers=4, attempts=attempts, first_pause=0.01))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_fetches_into_the_cache_and_hits_it_the_second_time(cache: Cache) -> None:
    with serve(files={"/a": CONTENT}) as server:
        wanted = [download(f"{server.url}/a", size=len(CONTENT))]
        for _ in range(2):
            fetched = fetcher(cache).fetch(wanted)
            assert fetched["mirror/pypi/a.whl"].read_bytes() == CONTENT
        assert len(server.requests) == 1


def test_a_file_that_two_paths_share_is_fetched_once(cache: Cache) -> None:
    with serve(files={"/a": CONTENT}) as server:
        fetched = fetcher(cache).fetch([download(f"{server.url}/a"), download(f"{server.url}/a", name="b.whl")])
    assert len(server.requests) == 1
    assert set(fetched) == {"mirror/pypi/a.whl", "mirror/pypi/b.whl"}


def test_a_damaged_cache_entry_is_fetched_again(cache: Cache) -> None:
    with serve(files={"/a": CONTENT}) as server:
        wanted = [download(f"{server.url}/a")]
        path = fetcher(cache).fetch(wanted)["mirror/pypi/a.whl"]
        path.write_bytes(CONTENT[:-1] + b"!")
        assert fetcher(cache).fetch(wanted)["mirror/pypi/a.whl"].read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_resumes_what_is_there(cache: Cache, ranges: bool) -> None:
    with serve(files={"/a": CONTENT}, ranges=ranges) as server:
        wanted = download(f"{server.url}/a")
        cache.partial(wanted.sha256).parent.mkdir(parents=True)
        cache.partial(wanted.sha256).write_bytes(CONTENT[:300_000])
        assert fetcher(cache).fetch([wanted])[wanted.path].read_bytes() == CONTENT
    assert server.requests[0][1]["range"] == "bytes=300000-"


@pytest.mark.parametrize("left", [b"x" * 1000, CONTENT + b"more", CONTENT])
def test_what_is_left_of_another_file_does_no_harm(cache: Cache, left: bytes) -> None:
    with serve(files={"/a": CONTENT}) as server:
        wanted = download(f"{server.url}/a", size=None)
        cache.partial(wanted.sha256).parent.mkdir(parents=True)
        cache.partial(wanted.sha256).write_bytes(left)
        assert fetcher(cache).fetch([wanted])[wanted.path].read_bytes() == CONTENT


def test_retries_and_goes_on_where_it_broke_off(cache: Cache) -> None:
    with serve(files={"/a": CONTENT}, statuses=[503, 0, 429]) as server:
        assert fetcher(cache).fetch([download(f"{server.url}/a")])
    assert [headers.get("range") for _, headers in server.requests] == [
        None, None, f"bytes={len(CONTENT) // 2}-", f"bytes={len(CONTENT) // 2}-",
    ]  # fmt: skip


def refusal(cache: Cache, server: FileServer, **options: object) -> str:
    with pytest.raises(DownloadError) as raised:
        fetcher(cache).fetch([download(f"{server.url.replace('//', '//me:secret@')}/t/tk-1/a", **options)])  # type: ignore[arg-type]
    message = str(raised.value)
    assert "a.whl" in message
    assert "secret" not in message
    assert "tk-1" not in message
    return message


def test_a_file_with_another_hash_is_refused_and_not_kept(cache: Cache) -> None:
    with serve(files={"/t/tk-1/a": b"evil"}) as server:
        assert "SHA-256 differs" in refusal(cache, server)
    assert not list((cache.root / "sha256").rglob("*"))
    assert cache.partial(sha256_of_bytes(CONTENT)).read_bytes() == b""


def test_a_file_that_is_too_long_is_refused(cache: Cache) -> None:
    with serve(files={"/t/tk-1/a": CONTENT}) as server:
        assert "longer than" in refusal(cache, server, size=1000)


@pytest.mark.parametrize(("status", "advice"), [(404, "does not have it"), (403, "credentials"), (410, "use another")])
def test_an_answer_that_will_not_change_is_not_asked_for_again(cache: Cache, status: int, advice: str) -> None:
    with serve(files={"/t/tk-1/a": CONTENT}, statuses=[status]) as server:
        assert advice in refusal(cache, server)
    assert len(server.requests) == 1


def test_gives_up_in_the_end(cache: Cache) -> None:
    with serve(files={"/t/tk-1/a": CONTENT}, statuses=[503] * 9) as server:
        assert "the server answered 503" in refusal(cache, server)
    assert len(server.requests) == 3


def test_no_connection(cache: Cache) -> None:
    with serve() as server:
        pass
    assert "no connection" in refusal(cache, server)


def test_an_interrupted_fetch_goes_on_where_it_was(cache: Cache) -> None:
    class Interrupting(Progress):
        def received(self, size: int) -> None:
            if size:
                raise KeyboardInterrupt

    stall = threading.Event()
    with serve(files={"/a": CONTENT}, stall=stall) as server:
        wanted = download(f"{server.url}/a")
        with pytest.raises(KeyboardInterrupt):
            fetcher(cache, Interrupting()).fetch([wanted])
        assert cache.partial(wanted.sha256).stat().st_size > 0
        stall.set()
        assert fetcher(cache).fetch([wanted])[wanted.path].read_bytes() == CONTENT
    assert "range" in server.requests[-1][1]


def test_files_of_a_local_mirror(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "my file.whl").write_bytes(CONTENT)
    wanted = download((tmp_path / "my file.whl").as_uri())
    assert fetcher(cache).sizes([wanted]) == {wanted.sha256: len(CONTENT)}
    assert fetcher(cache).fetch([wanted])[wanted.path].read_bytes() == CONTENT
    with pytest.raises(DownloadError, match="is not at"):
        fetcher(cache).fetch([download((tmp_path / "none").as_uri(), b"other")])


def test_sizes_are_asked_for_where_they_are_unknown(cache: Cache) -> None:
    with serve(files={"/a": CONTENT}) as server:
        known, asked, gone = (
            download("https://unused.invalid/b", b"b", size=7),
            download(f"{server.url}/a"),
            download(f"{server.url}/c", b"c"),
        )
        assert fetcher(cache).sizes([known, asked, gone]) == {
            known.sha256: 7, asked.sha256: len(CONTENT), gone.sha256: 0,
        }  # fmt: skip
