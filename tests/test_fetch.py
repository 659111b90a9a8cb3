from __future__ import annotations

import shutil
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from servers import FileServer, serve
from urllib3.util import create_urllib3_context

from airgap import sessions
from airgap.cache import Cache
from airgap.errors import DownloadError
from airgap.fetch import Fetcher
from airgap.hashing import sha256_of_bytes
from airgap.network import Network, NetworkOptions
from airgap.progress import Progress
from airgap.sources.interface import Download
from airgap.transfer import FetchOptions, Transfer, retry_after

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
    assert message.count("\n") == 0
    assert "secret" not in message
    assert "tk-1" not in message
    return message


def test_a_file_with_another_hash_is_refused_and_not_kept(cache: Cache) -> None:
    with serve(files={"/t/tk-1/a": b"evil"}) as server:
        assert "its SHA-256 differs" in refusal(cache, server)
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
    with pytest.raises(DownloadError, match="not at that place"):
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


PAGE = b"<!DOCTYPE html>\n<html><title>Welcome</title>Please log in</html>"


@pytest.mark.parametrize("left", [b"", CONTENT[:300_000]])
def test_a_login_page_in_place_of_a_file_is_named_and_what_was_there_is_kept(cache: Cache, left: bytes) -> None:
    with serve(page=PAGE) as server:
        partial = cache.partial(sha256_of_bytes(CONTENT))
        partial.parent.mkdir(parents=True)
        partial.write_bytes(left)
        assert "is a web page and not the file" in refusal(cache, server)
        assert partial.read_bytes() == left
    assert len(server.requests) == 1


def test_a_redirect_to_a_login_page_names_where_it_leads(cache: Cache) -> None:
    with serve(page=PAGE) as portal, serve(redirects={"/t/tk-1/a": f"{portal.url}/login?s=secret"}) as server:
        assert f"after leading on to {portal.url} is a web page" in refusal(cache, server)


def test_a_redirect_to_the_file_is_followed(cache: Cache) -> None:
    with serve(files={"/b": CONTENT}) as other, serve(redirects={"/a": f"{other.url}/b"}) as server:
        assert fetcher(cache).fetch([download(f"{server.url}/a")])


def test_redirects_without_end_are_named(cache: Cache) -> None:
    with serve(redirects={"/t/tk-1/a": "/t/tk-1/a"}) as server:
        assert "round in circles" in refusal(cache, server)


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_server_that_promises_more_than_there_is(cache: Cache, size: int | None) -> None:
    with serve(files={"/a": CONTENT}, length_error=1000) as server:
        wanted = download(f"{server.url}/a", size=size)
        assert fetcher(cache).fetch([wanted])[wanted.path].read_bytes() == CONTENT


def test_a_server_that_promises_less_than_there_is(cache: Cache) -> None:
    with serve(files={"/a": CONTENT}, length_error=-1000) as server:
        wanted = download(f"{server.url}/a", size=len(CONTENT))
        assert fetcher(cache).fetch([wanted])[wanted.path].read_bytes() == CONTENT
    with serve(files={"/t/tk-1/a": CONTENT}, length_error=-1000) as server:
        wrong = Cache(cache.root / "second")
        assert "SHA-256 differs" in refusal(wrong, server)


@pytest.mark.parametrize("manners", [{"range_error": 10}, {"told_range_error": 10}, {"range_error": -10}])
def test_a_server_that_continues_at_another_place_is_asked_for_the_whole_file(
    cache: Cache, manners: dict[str, int]
) -> None:
    with serve(files={"/a": CONTENT}, statuses=[0], **manners) as server:
        wanted = download(f"{server.url}/a", size=len(CONTENT) if manners.get("range_error", 0) >= 0 else None)
        assert fetcher(cache, attempts=5).fetch([wanted])[wanted.path].read_bytes() == CONTENT
    assert "range" in server.requests[1][1]
    assert "range" not in server.requests[-1][1]


def test_a_server_that_stalls_is_left_and_continued(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    stall, pause = threading.Event(), Transfer._pause

    def stall_no_more(*arguments: object) -> None:
        stall.set()
        pause(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Transfer, "_pause", stall_no_more)
    with serve(files={"/a": CONTENT}, stall=stall) as server:
        options = FetchOptions(workers=1, attempts=3, first_pause=0.01)
        wanted = download(f"{server.url}/a")
        fetched = Fetcher(cache, Network(timeout=0.3), Progress(), options).fetch([wanted])
        assert fetched[wanted.path].read_bytes() == CONTENT
    assert server.requests[-1][1]["range"] == f"bytes={len(CONTENT) // 2}-"


TRICKLE = FetchOptions(workers=4, attempts=2, first_pause=0.01, longest_block=0.1)


def test_a_server_that_trickles_is_left_for_the_next_one(cache: Cache) -> None:
    with (
        serve(files={"/a": CONTENT}, trickle=threading.Event()) as first,
        serve(files={"/a": CONTENT}) as second,
    ):
        wanted = replace(download(f"{first.url}/a"), mirrors=(f"{second.url}/a",))
        assert Fetcher(cache, Network(timeout=5), options=TRICKLE).fetch([wanted])
    # What had come is kept, and asking again has helped no more.
    assert [headers.get("range") is None for _, headers in first.requests] == [True, False]
    (asked,) = (headers["range"] for _, headers in second.requests)
    assert int(asked.removeprefix("bytes=").rstrip("-")) >= len(CONTENT) // 2


def test_a_server_that_trickles_is_named(cache: Cache) -> None:
    wanted = Fetcher(cache, Network(timeout=5), options=TRICKLE)
    with (
        serve(files={"/a": CONTENT}, trickle=threading.Event()) as server,
        pytest.raises(DownloadError, match="it sends next to nothing"),
    ):
        wanted.fetch([download(f"{server.url}/a")])


def test_a_line_that_many_share_may_be_slow(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of so many, each has its share with some bytes: it is asked for on and on.
    monkeypatch.setattr("airgap.watch.Watch.answers", 10**6)
    content = CONTENT[:700]
    with serve(files={"/a": content}, trickle=threading.Event()) as server:
        options = replace(TRICKLE, attempts=4)
        assert Fetcher(cache, Network(timeout=5), options=options).fetch([download(f"{server.url}/a", content)])
    assert len(server.requests) > options.attempts


def test_a_server_that_asks_to_wait_is_waited_for(cache: Cache) -> None:
    with serve(files={"/a": CONTENT}, statuses=[429], retry_after="1") as server:
        started = time.monotonic()
        fetcher(cache).fetch([download(f"{server.url}/a")])
    assert 0.9 <= time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        ("3600", 300),
        ("", 0),
        ("soon", 0),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 300),
        ("Fri, 01 Jan 2021 00:00:00 GMT", 0),
    ],
)
def test_how_long_a_server_asks_to_wait(value: str, seconds: float) -> None:
    response = requests.Response()
    response.headers["Retry-After"] = value
    assert retry_after(response) == seconds


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize(
    "first",
    [
        {"statuses": [404]},
        {"statuses": [503] * 9},
        {"files": {"/a": b"evil"}},
        {"page": PAGE},
        {"redirects": {"/a": "/login"}, "page": PAGE},
    ],
)
def test_the_next_mirror_is_taken_where_one_fails(cache: Cache, first: dict[str, object]) -> None:
    notes = Notes()
    with serve(**first) as bad, serve(files={"/a": CONTENT}) as good:
        wanted = replace(download(f"{bad.url}/a"), mirrors=(f"{good.url}/a",))
        assert fetcher(cache, notes).fetch([wanted])[wanted.path].read_bytes() == CONTENT
    assert f"{bad.url} failed" in notes.notes[-1]
    assert f"trying {good.url}" in notes.notes[-1]


def test_the_next_mirror_goes_on_where_the_first_broke_off(cache: Cache) -> None:
    with serve(files={"/a": CONTENT}, statuses=[0, 503, 503, 503]) as bad, serve(files={"/a": CONTENT}) as good:
        wanted = replace(download(f"{bad.url}/a"), mirrors=(f"{good.url}/a",))
        assert fetcher(cache).fetch([wanted])[wanted.path].read_bytes() == CONTENT
    assert good.requests[0][1]["range"] == f"bytes={len(CONTENT) // 2}-"


def test_a_mirror_that_is_silent_is_asked_last_from_then_on(cache: Cache) -> None:
    contents = [bytes([number]) * 1000 for number in range(4)]
    files = {f"/{number}": content for number, content in enumerate(contents)}
    with serve(statuses=[503] * 99) as bad, serve(files=files) as good:
        wanted = [
            replace(download(f"{bad.url}/{n}", content, name=f"{n}.whl"), mirrors=(f"{good.url}/{n}",))
            for n, content in enumerate(contents)
        ]
        options = FetchOptions(workers=1, attempts=3, first_pause=0.01)
        assert len(Fetcher(cache, Network(timeout=5), Progress(), options).fetch(wanted)) == 4
    assert {path for path, _ in bad.requests} == {bad.requests[0][0]}


def test_when_every_mirror_fails_each_is_named_with_its_reason(cache: Cache) -> None:
    with serve(statuses=[404]) as first, serve(page=PAGE) as second:
        wanted = replace(download(f"{first.url}/a"), mirrors=(f"{second.url}/a",))
        with pytest.raises(DownloadError) as raised:
            fetcher(cache).fetch([wanted])
    assert f"from {first.url} (the server answered 404), nor from {second.url} (the answer is a web page" in str(
        raised.value
    )


def test_files_are_fetched_while_others_are_looked_for(cache: Cache) -> None:
    with serve(files={"/a": CONTENT, "/b": b"b"}) as server, fetcher(cache).start() as fetching:
        fetching.add([download(f"{server.url}/a")])
        assert server.half_sent.wait(5)
        fetching.add([download(f"{server.url}/b", b"b", name="b.whl")])
        fetched = fetching.finish()
    assert set(fetched) == {"mirror/pypi/a.whl", "mirror/pypi/b.whl"}
    assert [wanted.path for wanted in fetching.missing] == ["mirror/pypi/a.whl", "mirror/pypi/b.whl"]


def test_a_failure_stops_who_still_looks_for_files(cache: Cache) -> None:
    with serve() as server, fetcher(cache).start() as fetching:
        fetching.add([download(f"{server.url}/a")])
        with pytest.raises(DownloadError, match="404"):
            fetching.finish()
        with pytest.raises(DownloadError, match="404"):
            fetching.add([])


def test_logins_come_from_netrc(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with serve(files={"/a": CONTENT}, login="Basic bWU6c2VjcmV0") as server:
        assert fetcher(cache).fetch([download(f"{server.url}/a")])


def test_files_come_through_the_proxy_that_was_named(cache: Cache) -> None:
    with serve(files={"/a": CONTENT}) as proxy:
        wanted = download("http://files.invalid/a")
        network = Network(proxy=proxy.url, timeout=5)
        assert Fetcher(cache, network).fetch([wanted])[wanted.path].read_bytes() == CONTENT
    assert proxy.requests[0][0] == wanted.url


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A server's certificate with its key, and the certificate alone."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    directory = tmp_path_factory.mktemp("certificate")
    both, authority = directory / "both.pem", directory / "ca.pem"
    # fmt: off
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", both, "-out", authority,
    ]
    # fmt: on
    subprocess.run(command, check=True, capture_output=True)
    both.write_bytes(both.read_bytes() + authority.read_bytes())
    return both, authority


def test_a_certificate_counts_when_its_authority_was_named(cache: Cache, certificate: tuple[Path, Path]) -> None:
    both, authority = certificate
    with serve(files={"/a": CONTENT}, certificate=both) as server:
        wanted = download(f"{server.url}/a")
        with pytest.raises(DownloadError, match=r"the certificate is not trusted here\): .*--ca-file"):
            fetcher(cache).fetch([wanted])
        network = Network(timeout=5).with_options(NetworkOptions(ca_file=authority))
        assert Fetcher(cache, network).fetch([wanted])


def test_certificates_are_read_once_for_all_connections(
    cache: Cache, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    both, authority = certificate
    made: list[object] = []
    sessions._read_context.cache_clear()
    monkeypatch.setattr(sessions, "create_urllib3_context", lambda: made.append(create_urllib3_context()) or made[-1])
    contents = {f"/{number}": f"{number}".encode() for number in range(8)}
    with serve(files=contents, certificate=both) as server:
        network = Network(timeout=5).with_options(NetworkOptions(ca_file=authority))
        wanted = [download(f"{server.url}{path}", content, name=f"{path}.whl") for path, content in contents.items()]
        assert len(Fetcher(cache, network).fetch(wanted)) == 8
    assert len(made) == 1


def test_a_file_without_certificates_is_named(cache: Cache, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    both, _ = certificate
    (tmp_path / "empty.pem").write_bytes(b"")
    network = Network(timeout=5).with_options(NetworkOptions(ca_file=tmp_path / "empty.pem"))
    fetcher = Fetcher(cache, network, options=FetchOptions(attempts=1))
    with (
        serve(files={"/a": CONTENT}, certificate=both) as server,
        pytest.raises(DownloadError, match="the encrypted connection failed"),
    ):
        fetcher.fetch([download(f"{server.url}/a")])
