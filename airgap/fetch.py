"""Downloads into the cache: in parallel, resumed where they broke off, retried, hashed while they are written."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

import requests
import urllib3

from airgap.addresses import origin
from airgap.cache import Cache
from airgap.errors import DownloadError
from airgap.network import Network
from airgap.progress import Progress
from airgap.sources.interface import Download

_BLOCK_BYTES = 256 * 1024
# Answers that may be different in a moment.
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_PAUSE = 30.0


@dataclass(frozen=True)
class FetchOptions:
    """How hard to try."""

    workers: int = 8
    attempts: int = 5
    """In a row without receiving anything."""
    first_pause: float = 1.0
    """Seconds; each further pause is twice as long."""


class Fetcher:
    """Gets downloads into a cache."""

    def __init__(
        self, cache: Cache, network: Network, progress: Progress | None = None, options: FetchOptions | None = None
    ) -> None:
        self._cache = cache
        self._network = network
        self._progress = progress or Progress()
        self._options = options or FetchOptions()
        self._sizes: dict[str, int] = {}

    def sizes(self, downloads: Iterable[Download]) -> Mapping[str, int]:
        """Return the size in bytes of *downloads* by SHA-256: from the cache or the servers.

        0 stands for what cannot be known before it is fetched.
        """
        unknown = []
        for download in downloads:
            path = self._cache.path(download.sha256)
            size = path.stat().st_size if path.exists() else download.size
            self._sizes[download.sha256] = size or 0
            if not size:
                unknown.append(download)
        session = self._network.session(self._options.workers)
        with ThreadPoolExecutor(self._options.workers) as pool:
            for download, size in zip(unknown, pool.map(partial(self._ask_size, session), unknown), strict=True):
                self._sizes[download.sha256] = size
        return self._sizes

    def _ask_size(self, session: requests.Session, download: Download) -> int:
        if (path := _local_path(download.url)) is not None:
            return path.stat().st_size if path.is_file() else 0
        try:
            response = session.head(
                download.url,
                headers={"Accept-Encoding": "identity"},
                timeout=self._network.timeout,
                allow_redirects=True,
            )
        except requests.RequestException:
            return 0  # fetching it will tell what is wrong
        return int(response.headers.get("Content-Length", 0)) if response.ok else 0

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
        wanted = list(downloads)
        return self.fetch_missing(wanted, self.missing(wanted))

    def fetch_missing(self, wanted: Sequence[Download], missing: Sequence[Download]) -> Mapping[str, Path]:
        """As :meth:`fetch`, where *missing* is what :meth:`missing` returned for *wanted*."""
        if missing:
            self._fetch_all(missing)
        return {download.path: self._cache.path(download.sha256) for download in wanted}

    def _fetch_all(self, missing: Sequence[Download]) -> None:
        (self._cache.root / "partial").mkdir(parents=True, exist_ok=True)
        sizes = {download.sha256: self._sizes.get(download.sha256, download.size or 0) for download in missing}
        # The largest first: at the end all threads are still busy.
        queue = sorted(missing, key=lambda download: (-sizes[download.sha256], download.sha256))
        pool = ThreadPoolExecutor(self._options.workers)
        session = self._network.session(self._options.workers)
        stopping = threading.Event()
        try:
            with self._progress.transfer(len(missing), sum(sizes.values())):
                futures = [pool.submit(self._fetch_one, session, download, stopping) for download in queue]
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
        finally:
            # Also on KeyboardInterrupt: threads end after the block that they are reading.
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _fetch_one(self, session: requests.Session, download: Download, stopping: threading.Event) -> None:
        path = self._cache.partial(download.sha256)
        with path.open("a+b", buffering=0) as stream:
            # Another builder may be fetching the same file: wait, and find it done.
            fcntl.flock(stream, fcntl.LOCK_EX)
            if self._cache.path(download.sha256).exists():
                return
            _Transfer(session, download, stream, self._network.timeout, self._options, self._progress, stopping).run()
            self._cache.adopt(path, download.sha256)
        self._progress.finished_file()


class _Transfer:
    """One download into one open file."""

    def __init__(
        self,
        session: requests.Session,
        download: Download,
        stream: IO[bytes],
        timeout: float,
        options: FetchOptions,
        progress: Progress,
        stopping: threading.Event,
    ) -> None:
        self._session = session
        self._download = download
        self._stream = stream
        self._timeout = timeout
        self._options = options
        self._progress = progress
        self._stopping = stopping
        self._digest = hashlib.sha256()
        self._position = 0

    def run(self) -> None:
        """Write the file; return when its hash is right, raise DownloadError otherwise."""
        resumed = self._read_what_is_there() > 0
        while True:
            self._receive_all()
            if self._digest.hexdigest() == self._download.sha256:
                return
            self._restart()
            # What an earlier run left may be of a file that was replaced since: once more, from the start.
            if not resumed:
                raise DownloadError(
                    f"{self._download.display_name} from {origin(self._download.url)} is not the file that the lock "
                    "names (its SHA-256 differs): the mirror may be damaged, use another one or lock again."
                )
            resumed = False

    def _read_what_is_there(self) -> int:
        self._stream.seek(0)
        while block := self._stream.read(_BLOCK_BYTES):
            self._digest.update(block)
            self._position += len(block)
        if self._download.size is not None and self._position > self._download.size:
            self._restart()
        self._progress.received(self._position)
        return self._position

    def _restart(self) -> None:
        self._stream.seek(0)
        self._stream.truncate()
        self._digest = hashlib.sha256()
        self._progress.received(-self._position)
        self._position = 0

    def _receive_all(self) -> None:
        attempt = 0
        while True:
            before = self._position
            try:
                for block in self._blocks():
                    if self._stopping.is_set():
                        raise DownloadError("The download was stopped.")
                    self._write(block)
                return
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, _PassingError) as error:
                if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
                    _raise_if_disk(error, self._download)
                # Progress made is a new start: a slow line that breaks often gets there in the end.
                attempt = 1 if self._position > before else attempt + 1
                if attempt >= self._options.attempts:
                    raise DownloadError(
                        f"{self._download.display_name} could not be fetched from {origin(self._download.url)} "
                        f"({_reason(error)}): check the network and start again, what has arrived is kept."
                    ) from None
                pause = min(self._options.first_pause * 2 ** (attempt - 1), _LONGEST_PAUSE)
                if self._stopping.wait(max(pause, getattr(error, "retry_after", 0.0))):
                    raise DownloadError("The download was stopped.") from None

    def _write(self, block: bytes) -> None:
        if self._download.size is not None and self._position + len(block) > self._download.size:
            self._restart()
            raise DownloadError(
                f"{self._download.display_name} from {origin(self._download.url)} is longer than the "
                f"{self._download.size} bytes that its index names: the mirror may be damaged, use another one."
            )
        self._stream.write(block)
        self._digest.update(block)
        self._position += len(block)
        self._progress.received(len(block))

    @contextmanager
    def _response(self) -> Iterator[requests.Response]:
        # Packages are compressed already; "identity" keeps servers from handing out other bytes than were hashed.
        headers = {"Accept-Encoding": "identity"}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
        response = self._session.get(self._download.url, headers=headers, stream=True, timeout=self._timeout)
        with closing(response):
            yield response

    def _blocks(self) -> Iterator[bytes]:
        if (path := _local_path(self._download.url)) is not None:
            yield from self._blocks_of_file(path)
            return
        if self._position and self._position == self._download.size:
            return
        with self._response() as response:
            if response.status_code in _PASSING_STATUS:
                raise _PassingError(f"the server answered {response.status_code}", _retry_after(response))
            if response.status_code == 416 or (
                response.status_code == 206
                and not response.headers.get("Content-Range", "").startswith(f"bytes {self._position}-")
            ):
                self._restart()
                raise _PassingError("the server did not continue where the download broke off")
            if response.status_code >= 400:
                raise DownloadError(
                    f"{self._download.display_name} could not be fetched from {origin(self._download.url)} (the server "
                    f"answered {response.status_code}): {_advice(response.status_code)}"
                )
            if response.status_code != 206 and self._position:
                self._restart()
            expected = self._position + int(response.headers.get("Content-Length", -self._position - 1))
            # raw: requests would undo a Content-Encoding, and the hash is that of the file as it is stored.
            while block := response.raw.read(_BLOCK_BYTES, decode_content=False):
                yield block
            if expected >= 0 and self._position < expected:
                raise _PassingError("the connection broke off")

    def _blocks_of_file(self, path: Path) -> Iterator[bytes]:
        self._restart()
        if not path.is_file():
            raise DownloadError(f"{self._download.display_name} is not at {path}: complete that mirror or use another.")
        with path.open("rb") as source:
            while block := source.read(_BLOCK_BYTES):
                yield block


def _local_path(url: str) -> Path | None:
    """Return the file that a file: URL names; None for other URLs."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


class _PassingError(Exception):
    """A failure that may be over in a moment."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def _reason(error: Exception) -> str:
    # requests' own messages hold the whole address, with what it has of credentials.
    if isinstance(error, requests.exceptions.SSLError):
        return "the certificate is not trusted here"
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy refused"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, _PassingError):
        return str(error)
    return "the connection broke off"


def _advice(status: int) -> str:
    if status in (401, 403):
        return "check the credentials of that server."
    if status in (404, 410):
        return "the mirror does not have it, use another one or lock again."
    return "try again later or use another mirror."


def _retry_after(response: requests.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return min(float(value), _LONGEST_PAUSE) if value.isdecimal() else 0.0


def _raise_if_disk(error: OSError, download: Download) -> None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
        raise DownloadError(
            f"{download.display_name} could not be written to the cache ({error.strerror}): make room or name another "
            "directory with --cache."
        ) from None
