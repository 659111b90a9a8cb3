"""One download into one open file: resumed where it broke off, retried, and from the next mirror when one fails."""

from __future__ import annotations

import errno
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from itertools import chain
from pathlib import Path
from typing import IO

import requests
import urllib3

from airgap.addresses import local_path, origin
from airgap.errors import DownloadError
from airgap.progress import Progress
from airgap.sources.interface import Download
from airgap.watch import Watch

_BLOCK_BYTES = 128 * 1024
# Answers that may be different in a moment.
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_PAUSE = 30.0
# What a server may ask for with Retry-After.
_LONGEST_OBEYED_PAUSE = 300.0
# How web pages begin; no package does.
_PAGE_STARTS = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<script")


@dataclass(frozen=True)
class FetchOptions:
    """How hard to try."""

    workers: int = 16
    attempts: int = 5
    """For each address, in a row without receiving anything."""
    first_pause: float = 1.0
    """Seconds; each further pause is twice as long."""
    longest_block: float = 128.0
    """Seconds for each 128 KiB of a file; a server that takes longer is asked anew, for what is missing."""


@dataclass
class Situation:
    """What the transfers of one build share."""

    session: requests.Session
    session_for_debs: requests.Session
    timeout: float
    options: FetchOptions
    progress: Progress
    stopping: threading.Event = field(default_factory=threading.Event)
    silent: set[str] = field(default_factory=set)
    """Servers that gave no answer to one transfer: the others try them last."""
    elsewhere: Callable[[Download], Iterable[str]] = lambda download: ()
    """Asked for more addresses of a download when all that it names have failed."""
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        """Watch over the transfers."""
        self.watch = Watch(self.options.longest_block)


class Transfer:
    """One download into one open file."""

    def __init__(self, situation: Situation, download: Download, stream: IO[bytes]) -> None:
        self._situation = situation
        self._download = download
        self._stream = stream
        self._digest = hashlib.sha256()
        self._position = 0
        self._pieces = 0
        """Parts that the file was put together from."""

    def run(self) -> None:
        """Write the file; return when its hash is right.

        Raises DownloadError with every address' reason when none of them gives the file.
        """
        self._read_what_is_there()
        refusals: list[_SourceError] = []
        urls = sorted(self._download.urls, key=lambda url: origin(url) in self._situation.silent)
        for position, url in enumerate(chain(urls, self._further())):
            if refusals:
                self._situation.progress.note(
                    f"  {self._download.display_name}: {refusals[-1].origin} failed ({refusals[-1].reason}), trying "
                    f"{origin(url)}"
                )
            try:
                self._run_from(url, last=position >= len(urls) - 1)
                return
            except _SourceError as refusal:
                refusals.append(refusal)
        raise DownloadError(self._sentence(refusals))

    def _further(self) -> Iterator[str]:
        """Yield addresses that nobody asks for as long as those of the download do."""
        yield from self._situation.elsewhere(self._download)

    def _sentence(self, refusals: Sequence[_SourceError]) -> str:
        name = self._download.display_name
        if len(refusals) == 1:
            (refusal,) = refusals
            return f"{name} could not be fetched from {refusal.origin} ({refusal.reason}): {refusal.advice}"
        places = ", nor from ".join(f"{refusal.origin} ({refusal.reason})" for refusal in refusals)
        return f"{name} could not be fetched from {places}: {refusals[0].advice}"

    def _run_from(self, url: str, last: bool) -> None:
        """Complete the file from *url*; of the addresses before the last, each is tried a little less hard."""
        ranges = True
        while True:
            self._receive_all(url, self._situation.options.attempts if last else 2, ranges)
            if self._is_whole():
                return
            pieced = self._pieces > 1
            self._restart()
            # Pieces of different versions of a file, or of a server that counts its ranges wrongly: once more, in one.
            if not pieced or not ranges:
                raise _SourceError(
                    url,
                    "it is not the file that the lock names, its SHA-256 differs",
                    "the mirror may be damaged, use another one or lock again.",
                )
            ranges = False

    def _is_whole(self) -> bool:
        return self._digest.hexdigest() == self._download.sha256

    def _read_what_is_there(self) -> None:
        self._stream.seek(0)
        while block := self._stream.read(_BLOCK_BYTES):
            self._digest.update(block)
            self._position += len(block)
        self._pieces = 1 if self._position else 0
        self._situation.progress.received(self._position)
        if self._download.size is not None and self._position > self._download.size:
            self._restart()

    def _restart(self) -> None:
        self._stream.seek(0)
        self._stream.truncate()
        self._digest = hashlib.sha256()
        self._situation.progress.received(-self._position)
        self._position = self._pieces = 0

    def _receive_all(self, url: str, attempts: int, ranges: bool) -> None:
        """Read from *url* to its end, again after failures that may pass."""
        attempt = 0
        while True:
            before = self._position
            try:
                for block in self._blocks(url, ranges):
                    if self._situation.stopping.is_set():
                        raise DownloadError("The download was stopped.")
                    self._write(url, block)
                if self._download.size is None or self._position >= self._download.size:
                    return
                if self._pieces > 1 and self._position == before:
                    return  # there is no more, so that the pieces do not fit together
                raise _PassingError("the server ended before the file did")
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, _PassingError) as error:
                if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
                    _raise_if_disk(error, self._download)
                if self._position and self._is_whole():
                    return  # the server had promised more than there is
                # Progress made is a new start: a slow line that breaks often gets there in the end.
                attempt = 1 if self._position - before > getattr(error, "trickle", 0) else attempt + 1
                if attempt >= attempts or _is_final(error):
                    self._situation.silent.add(origin(url))
                    raise _SourceError(url, _reason(error), _advice_for(error)) from None
                self._pause(url, error, attempt)

    def _pause(self, url: str, error: Exception, attempt: int) -> None:
        options = self._situation.options
        pause = min(options.first_pause * 2 ** (attempt - 1), _LONGEST_PAUSE)
        pause = max(pause, getattr(error, "retry_after", 0.0))
        if pause >= 2:
            self._situation.progress.note(
                f"  {self._download.display_name}: {origin(url)} failed ({_reason(error)}), again in {pause:.0f} s"
            )
        if self._situation.stopping.wait(pause):
            raise DownloadError("The download was stopped.") from None

    def _write(self, url: str, block: bytes) -> None:
        if self._download.size is not None and self._position + len(block) > self._download.size:
            self._restart()
            raise _SourceError(
                url,
                f"it is longer than the {self._download.size} bytes that its index names",
                "the mirror may be damaged, use another one.",
            )
        self._stream.write(block)
        self._digest.update(block)
        self._position += len(block)
        self._situation.progress.received(len(block))

    def _blocks(self, url: str, ranges: bool) -> Iterator[bytes]:
        if (path := local_path(url)) is not None:
            yield from self._blocks_of_file(url, path)
            return
        if self._position and self._position == self._download.size:
            return
        if self._position and not ranges:
            self._restart()
        # Packages are compressed already; "identity" keeps servers from handing out other bytes than were hashed.
        headers = {"Accept-Encoding": "identity"}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
        debian = self._download.kind == "deb"
        session = self._situation.session_for_debs if debian else self._situation.session
        with closing(session.get(url, headers=headers, stream=True, timeout=self._situation.timeout)) as response:
            yield from self._blocks_of(url, response)

    def _blocks_of(self, url: str, response: requests.Response) -> Iterator[bytes]:
        if response.status_code in _PASSING_STATUS:
            raise _PassingError(f"the server answered {response.status_code}", retry_after(response))
        continued = response.headers.get("Content-Range", "").startswith(f"bytes {self._position}-")
        if response.status_code == 416 or (response.status_code == 206 and not continued):
            self._restart()
            raise _PassingError("the server did not continue where the download broke off")
        if response.status_code >= 400:
            raise _SourceError(url, f"the server answered {response.status_code}", _advice(response.status_code))
        watch = self._situation.watch
        with watch.over(response.raw) as came:
            try:
                yield from self._body(url, response, came)
            except (urllib3.exceptions.HTTPError, _PassingError):
                if not watch.ended(response.raw):
                    raise
            if watch.ended(response.raw):
                raise _PassingError("it sends next to nothing", trickle=_BLOCK_BYTES // watch.answers)

    def _body(self, url: str, response: requests.Response, came: Callable[[], None]) -> Iterator[bytes]:
        # raw: requests would undo a Content-Encoding, and the hash is that of the file as it is stored.
        block = response.raw.read(_BLOCK_BYTES, decode_content=False)
        if response.status_code != 206:
            if block[:64].lstrip().lower().startswith(_PAGE_STARTS):
                raise _SourceError(url, _page_reason(url, response), _PAGE_ADVICE)
            if self._position:
                self._restart()
        promised = content_length(response)
        expected = self._position + promised if promised is not None else None
        self._pieces += 1
        while block:
            came()
            yield block
            block = response.raw.read(_BLOCK_BYTES, decode_content=False)
        if expected is not None and self._position < expected:
            raise _PassingError("the connection broke off")

    def _blocks_of_file(self, url: str, path: Path) -> Iterator[bytes]:
        self._restart()
        if not path.is_file():
            raise _SourceError(url, "it is not at that place", "complete that mirror or use another.")
        self._pieces = 1
        with path.open("rb") as source:
            while block := source.read(_BLOCK_BYTES):
                yield block


_PAGE_ADVICE = "log in to the network in a browser, or check the address and the proxy, and start again."


def _page_reason(url: str, response: requests.Response) -> str:
    there = origin(response.url)
    onward = f" after leading on to {there}" if there != origin(url) else ""
    return f"the answer{onward} is a web page and not the file, as a network's login page would be"


def content_length(response: requests.Response) -> int | None:
    """Return the bytes that *response* says its body has; None when it does not say."""
    value = response.headers.get("Content-Length", "")
    return int(value) if value.isdecimal() else None


class _PassingError(Exception):
    """A failure that may be over in a moment."""

    def __init__(self, message: str, retry_after: float = 0.0, trickle: int = 0) -> None:
        """Make an error; *trickle* are the bytes up to which what has arrived before it is no progress."""
        super().__init__(message)
        self.retry_after = retry_after
        self.trickle = trickle


class _SourceError(Exception):
    """One address does not give the file; another may. *reason* and *advice* are parts of a sentence."""

    def __init__(self, url: str, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.origin = origin(url)
        self.reason = reason
        self.advice = advice


def _is_final(error: Exception) -> bool:
    # A certificate will not be trusted later.
    return isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)


def _reason(error: Exception) -> str:
    # requests' own messages hold the whole address, with what it has of credentials.
    if isinstance(error, requests.exceptions.SSLError):
        return "the certificate is not trusted here" if _is_final(error) else "the encrypted connection failed"
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy refused"
    if isinstance(error, requests.TooManyRedirects):
        return "the server leads round in circles"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, _PassingError):
        return str(error)
    return "the connection broke off"


def _advice_for(error: Exception) -> str:
    if _is_final(error):
        return "name the file of your certificate authority with --ca-file."
    return "check the network and start again, what has arrived is kept."


def _advice(status: int) -> str:
    if status in (401, 403, 407):
        return "check the credentials of that server (netrc, or the client's own store)."
    if status in (404, 410):
        return "the mirror does not have it, use another one or lock again."
    return "try again later or use another mirror."


def retry_after(response: requests.Response) -> float:
    """Return the seconds that the server asks to wait, at most five minutes; it may say when, or how long."""
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return min(float(value), _LONGEST_OBEYED_PAUSE)
    try:
        moment = parsedate_to_datetime(value).timestamp()
    except ValueError:
        return 0.0
    return max(0.0, min(moment - time.time(), _LONGEST_OBEYED_PAUSE))


def _raise_if_disk(error: OSError, download: Download) -> None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
        raise DownloadError(
            f"{download.display_name} could not be written to the cache ({error.strerror}): make room or name another "
            "directory with --cache."
        ) from None
