"""Downloads into the cache: in parallel, and already while the rest is still being resolved."""

from __future__ import annotations

import fcntl
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import requests

from airgap.addresses import local_path
from airgap.cache import Cache
from airgap.network import Network
from airgap.progress import Progress
from airgap.sources.interface import Download
from airgap.transfer import FetchOptions, Situation, Transfer, content_length

# A main thread that waits without end would not see Ctrl-C.
_SECONDS_BETWEEN_LOOKS = 0.5


class Fetcher:
    """Gets downloads into a cache."""

    def __init__(
        self,
        cache: Cache,
        network: Network,
        progress: Progress | None = None,
        options: FetchOptions | None = None,
        elsewhere: Callable[[Download], Iterable[str]] = lambda download: (),
    ) -> None:
        """Fetch into *cache*; *elsewhere* tells more addresses of a download when all that it names have failed."""
        self._elsewhere = elsewhere
        self._cache = cache
        self._network = network
        self._progress = progress or Progress()
        self._options = options or FetchOptions()

    def known_sizes(self, downloads: Iterable[Download]) -> dict[str, int]:
        """Return the size in bytes of *downloads* by SHA-256, without asking anybody; 0 where it is not known."""
        sizes = {}
        for download in downloads:
            path = self._cache.path(download.sha256)
            sizes[download.sha256] = path.stat().st_size if path.exists() else download.size or 0
        return sizes

    def sizes(self, downloads: Iterable[Download]) -> dict[str, int]:
        """As :meth:`known_sizes`, and ask the servers where that is not enough."""
        unique = {download.sha256: download for download in downloads}
        sizes = self.known_sizes(unique.values())
        unknown = [download for sha256, download in unique.items() if not sizes[sha256]]
        with self._network.session(self._options.workers) as session, ThreadPoolExecutor(self._options.workers) as pool:
            for download, size in zip(unknown, pool.map(partial(self._ask_size, session), unknown), strict=True):
                sizes[download.sha256] = size
        return sizes

    def _ask_size(self, session: requests.Session, download: Download) -> int:
        for url in download.urls:
            if (path := local_path(url)) is not None:
                if path.is_file():
                    return path.stat().st_size
                continue
            try:
                response = session.head(
                    url,
                    headers={"Accept-Encoding": "identity"},
                    timeout=self._network.timeout,
                    allow_redirects=True,
                )
            except requests.RequestException:
                continue  # fetching it will tell what is wrong
            if response.ok and (size := content_length(response)):
                return size
        return 0

    def missing(self, downloads: Iterable[Download]) -> list[Download]:
        """Return those of *downloads* that are not in the cache, each hash once; hashes what is there."""
        unique = {download.sha256: download for download in downloads}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(self._cache.lookup, unique))
        return [download for download, path in zip(unique.values(), found, strict=True) if path is None]

    def fetch(self, downloads: Iterable[Download]) -> Mapping[str, Path]:
        """Fetch what the cache does not have; return each download's verified file by the download's ``path``.

        Raises DownloadError for the first file that cannot be had. What has arrived until then is kept.
        """
        with self.start(hash_hits=True) as fetching:
            fetching.add(downloads)
            return fetching.finish()

    @contextmanager
    def start(
        self, arrived: Callable[[Download], None] = lambda download: None, hash_hits: bool = False
    ) -> Iterator[Fetching]:
        """Start threads that fetch what they are given; they end with the block, also when it ends with an error.

        *arrived* is told of each download that has been fetched, by any thread. Without *hash_hits*, what the cache has
        is not hashed: for a caller who hashes it when it is copied.
        """
        relay = _Relay(self._progress)
        workers = self._options.workers
        with self._network.session(workers) as session, self._network.session_for_debs(workers) as session_for_debs:
            situation = Situation(session, session_for_debs, self._network.timeout, self._options, relay)
            situation.elsewhere = self._elsewhere
            fetching = Fetching(self._cache, situation, self._progress, relay, arrived, hash_hits)
            try:
                yield fetching
            finally:
                fetching.stop()


class Fetching:
    """Downloads on their way."""

    def __init__(
        self,
        cache: Cache,
        situation: Situation,
        progress: Progress,
        relay: _Relay,
        arrived: Callable[[Download], None],
        hash_hits: bool,
    ) -> None:
        self._cache = cache
        self._situation = situation
        self._progress = progress
        self._relay = relay
        self._arrived = arrived
        self._hash_hits = hash_hits
        # The largest first: at the end all threads are still busy.
        self._queue: queue.PriorityQueue[tuple[int, str]] = queue.PriorityQueue()
        self._marks: dict[str, object] = {}
        self._downloads: dict[str, Download] = {}
        self._paths: dict[str, Path] = {}
        self._missing: dict[str, Download] = {}
        self._done = 0
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        (cache.root / "partial").mkdir(parents=True, exist_ok=True)
        for _ in range(situation.options.workers):
            threading.Thread(target=self._work, daemon=True).start()

    @property
    def missing(self) -> tuple[Download, ...]:
        """What the cache did not have, by path; complete after :meth:`finish`."""
        return tuple(sorted(self._missing.values(), key=lambda download: download.path))

    def add(self, downloads: Iterable[Download]) -> None:
        """Fetch *downloads* too, each hash once; raise what made an earlier one fail. May be called by any thread."""
        self._raise_failure()
        for download in downloads:
            self._paths[download.path] = self._cache.path(download.sha256)
            # In one step: whoever finds its own mark was the first.
            mark = object()
            if self._marks.setdefault(download.sha256, mark) is mark:
                self._downloads[download.sha256] = download
                self._queue.put((-(download.size or 0), download.sha256))

    def finish(self) -> Mapping[str, Path]:
        """Wait until all is there; return the verified files by ``path``.

        Raises DownloadError for the first file that cannot be had.
        """
        sizes = sum(download.size or 0 for download in self._downloads.values())
        with self._progress.transfer(len(self._downloads), sizes):
            self._relay.show()
            with self._changed:
                while self._done < len(self._downloads) and self._failure is None:
                    self._changed.wait(_SECONDS_BETWEEN_LOOKS)
        self._raise_failure()
        return dict(self._paths)

    def stop(self) -> None:
        """End the threads, each after the block that it is reading."""
        self._situation.stopping.set()
        for _ in range(self._situation.options.workers):
            self._queue.put((1, ""))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while not self._situation.stopping.is_set():
            _, sha256 = self._queue.get()
            if not sha256:
                return
            failure: BaseException | None = None
            try:
                self._fetch(self._downloads[sha256])
            except BaseException as error:  # of any kind: raised again in the thread that waits
                failure = error
            with self._changed:
                self._done += 1
                self._failure = self._failure or failure
                self._changed.notify_all()
            if failure is not None:
                self._situation.stopping.set()

    def _fetch(self, download: Download) -> None:
        found = (
            self._cache.lookup(download.sha256)
            if self._hash_hits
            else self._cache.present(download.sha256, download.size)
        )
        if found is not None:
            self._relay.received(found.stat().st_size)
        else:
            self._missing[download.sha256] = download
            path = self._cache.partial(download.sha256)
            with path.open("a+b", buffering=0) as stream:
                # Another builder may be fetching the same file: wait, and find it done.
                fcntl.flock(stream, fcntl.LOCK_EX)
                if not self._cache.path(download.sha256).exists():
                    Transfer(self._situation, download, stream).run()
                    self._cache.adopt(path, download.sha256)
            self._arrived(download)
        self._relay.finished_file()


class _Relay(Progress):
    """Counts for the operator's progress until that is shown, and hands on from then."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._shown = False
        self._bytes = self._files = 0

    def show(self) -> None:
        with self._lock:
            self._shown = True
            if self._bytes:
                self._progress.received(self._bytes)
            for _ in range(self._files):
                self._progress.finished_file()

    def note(self, text: str) -> None:
        self._progress.note(text)

    def received(self, size: int) -> None:
        with self._lock:
            if self._shown:
                self._progress.received(size)
            else:
                self._bytes += size

    def finished_file(self) -> None:
        with self._lock:
            if self._shown:
                self._progress.finished_file()
            else:
                self._files += 1
