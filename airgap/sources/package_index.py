"""Asks Python package indexes which files a release has: in JSON (PEP 691), or in HTML (PEP 503) where it must be."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import requests
from packaging.utils import canonicalize_name

from airgap.addresses import has_credentials, origin
from airgap.errors import ResolutionError
from airgap.network import Network
from airgap.sources.interface import Download
from airgap.sources.requirements_file import LockedRequirement
from airgap.transfer import retry_after
from airgap.watch import Watch

_T = TypeVar("_T")
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_WORKERS = 16
_ATTEMPTS = 4
# Seconds for one page, which has a few MB at most.
_LONGEST_ANSWER = 300.0
# A link to a file, with its SHA-256.
_ANCHOR = re.compile(r"<a\s[^>]*?#sha256=([0-9A-Za-z]+)[^>]*>", re.IGNORECASE)
_BASE = re.compile(r"<base\s[^>]*>", re.IGNORECASE)
# What tells a list of files from any other page: PEP 629's mark, a hash, or a file of the kinds that indexes have.
_OF_AN_INDEX = re.compile(r"pypi:repository-version|#(?:sha\d+|md5)=|href=[^>]*\.(?:whl|tar\.gz|zip)[\"'#?\s>]")


@dataclass(frozen=True)
class IndexFile:
    """A file that an index offers."""

    file_name: str
    url: str
    sha256: str
    size: int | None


@dataclass(frozen=True)
class _Page:
    """What an index answered about a project."""

    content: bytes = field(default=b"", repr=False)
    content_type: str = ""
    address: str = ""


class PackageIndex:
    """Simple indexes, asked in turn; what was found is remembered in the cache.

    A remembered answer is never stale: it lists files by the hashes in a lock, and those do not change.
    """

    def __init__(self, network: Network, cache: Path) -> None:
        self._network = network
        self._cache = cache / "index"
        self._session = network.session(_WORKERS)
        self._pool = ThreadPoolExecutor(_WORKERS)
        self._lock = threading.Lock()
        self._watch = Watch(_LONGEST_ANSWER)
        self._pages: dict[str, Future[_Page]] = {}
        self._failed: dict[str, str] = {}
        """Why an index is not asked any more, by its address."""

    def choose(
        self, requirements: Sequence[LockedRequirement], choice: Callable[[LockedRequirement, list[IndexFile]], _T]
    ) -> list[_T]:
        """Return what *choice* makes of each of *requirements* and the files whose hashes its lock accepts.

        *choice* is called by any thread, as soon as the index has answered. Raises ResolutionError when none of the
        indexes has such files, and what *choice* raises.
        """

        def chosen(requirement: LockedRequirement) -> _T:
            return choice(requirement, self.files(requirement))

        futures = [self._pool.submit(chosen, requirement) for requirement in requirements]
        try:
            return [future.result() for future in futures]
        finally:
            # Not to wait for answers that nobody wants any more: after an error, or when the user interrupts.
            for future in futures:
                future.cancel()

    def files(self, requirement: LockedRequirement) -> list[IndexFile]:
        """Return the files of *requirement* whose hashes its lock accepts; errors as in :meth:`choose`."""
        remembered = self._cache / f"{self._key(requirement)}.json"
        try:
            return [IndexFile(**entry) for entry in json.loads(remembered.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError):
            pass
        for index in self._network.indexes:
            if index in self._failed:
                continue
            try:
                page = self._page(index, requirement.name)
                files = parse_page(page.content, page.content_type, page.address, requirement.hashes)
            except IndexPageError as error:
                # The next index may have the same; this one is not waited for again.
                self._failed[index] = str(error)
                continue
            if files:
                if not any(has_credentials(address) for address in (index, *(file.url for file in files))):
                    self._remember(remembered, files)
                return files
        raise ResolutionError(self._sentence(requirement))

    def elsewhere(self, download: Download) -> Iterator[str]:
        """Yield the addresses at which the indexes have the wheel *download*, other than those that it names."""
        if download.kind != "wheel":
            return
        for index in self._network.indexes:
            try:
                page = self._page(index, str(canonicalize_name(download.name)))
                files = parse_page(page.content, page.content_type, page.address, frozenset({download.sha256}))
            except IndexPageError:
                continue
            yield from (file.url for file in files if file.url not in download.urls)

    def _sentence(self, requirement: LockedRequirement) -> str:
        if self._failed:
            reasons = "; ".join(f"{origin(index)} {reason}" for index, reason in self._failed.items())
            return (
                f"The package index does not tell about {requirement.name} {requirement.version} ({reasons}): check "
                "the network, the address (--index) and pip's configuration (pip config debug)."
            )
        return (
            f"{requirement.name} {requirement.version}: the package index has none of the files that the lock names: "
            "configure pip for an index that is complete, or lock again."
        )

    def _key(self, requirement: LockedRequirement) -> str:
        parts = [*self._network.indexes, requirement.name, requirement.version, *sorted(requirement.hashes)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _remember(self, path: Path, files: list[IndexFile]) -> None:
        self._cache.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{threading.get_ident()}")
        temporary.write_text(json.dumps([asdict(file) for file in files]), encoding="utf-8")
        temporary.replace(path)

    def _page(self, index: str, name: str) -> _Page:
        """Return the page of *name*, which is asked for once, whoever wants it."""
        address = f"{index.rstrip('/')}/{name}/"
        with self._lock:
            future = self._pages.get(address)
            mine = future is None
            if future is None:
                future = self._pages[address] = Future()
        if mine:
            try:
                future.set_result(_read_directory(address) if _is_local(address) else self._ask(index, address))
            except BaseException as error:  # of any kind: the others wait for this answer
                future.set_exception(error)
        return future.result()

    def _ask(self, index: str, address: str) -> _Page:
        reason = ""
        for attempt in range(_ATTEMPTS):
            if index in self._failed:
                break
            if attempt:
                time.sleep(2.0 ** (attempt - 1))
            try:
                get = self._session.get(
                    address, headers={"Accept": _ACCEPT}, timeout=self._network.timeout, stream=True
                )
                with get as response, self._watch.over(response.raw):
                    content = response.content
            except requests.RequestException as error:
                # The message would hold the address, with what it has of credentials.
                reason = _reason(error)
                continue
            if response.status_code == 404:
                return _Page()
            if response.status_code == 200:
                return _Page(content, response.headers.get("Content-Type", ""), response.url)
            reason = f"answered {response.status_code}"
            if response.status_code < 500 and response.status_code != 429:
                break
            time.sleep(retry_after(response))
        raise IndexPageError(self._failed.get(index, reason))


class IndexPageError(Exception):
    """An index does not tell what was asked; the message follows its name in a sentence."""


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.exceptions.SSLError):
        return "has a certificate that is not trusted here (--ca-file)"
    if isinstance(error, requests.exceptions.ProxyError):
        return "is not reached: the proxy refused"
    if isinstance(error, requests.Timeout):
        return "does not answer in time"
    if isinstance(error, requests.ConnectionError):
        return "cannot be reached"
    return "breaks its answers off"


def parse_page(
    content: bytes, content_type: str, address: str, hashes: frozenset[str] | None = None
) -> list[IndexFile]:
    """Return the files that the page at *address* lists with a SHA-256; of all, or with one of *hashes*.

    Raises IndexPageError when the page is neither of the two formats, as what a network's login sends in place of it.
    """
    if "json" not in content_type:
        return _parse_html(content, address, hashes)
    try:
        return [
            IndexFile(entry["filename"], urljoin(address, entry["url"]), entry["hashes"]["sha256"], entry.get("size"))
            for entry in json.loads(content)["files"]
            if "sha256" in entry["hashes"] and (hashes is None or entry["hashes"]["sha256"] in hashes)
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise IndexPageError("sent a page that is no list of files") from error


def _parse_html(content: bytes, address: str, hashes: frozenset[str] | None) -> list[IndexFile]:
    text = content.decode("utf-8", "replace")
    if text.strip() and not _OF_AN_INDEX.search(text):
        raise IndexPageError("sent a web page that is no list of files, as a network's login page would be")
    # A page may list thousands of files, of which a lock wants two: the parser sees those only.
    anchors = [match for match in _ANCHOR.finditer(text) if hashes is None or match[1].lower() in hashes]
    parser = _LinkParser()
    parser.feed("".join([*_BASE.findall(text), *(match[0] for match in anchors)]))
    base = urljoin(address, parser.base) if parser.base else address
    return [file for link in parser.links if (file := _file_of_link(urljoin(base, link)))]


def _is_local(address: str) -> bool:
    return urlsplit(address).scheme == "file"


def _read_directory(address: str) -> _Page:
    page = Path(unquote(urlsplit(address).path)) / "index.html"
    return _Page(page.read_bytes(), "text/html", address) if page.is_file() else _Page()


def _file_of_link(link: str) -> IndexFile | None:
    url, fragment = urldefrag(link)
    algorithm, _, value = fragment.partition("=")
    if algorithm != "sha256":
        return None
    return IndexFile(unquote(urlsplit(url).path.rpartition("/")[2]), url, value.lower(), None)


class _LinkParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.base: str | None = None
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href")
        if tag == "base" and target and self.base is None:
            self.base = target
        elif tag == "a" and target:
            self.links.append(target)
