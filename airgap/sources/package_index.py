"""Asks Python package indexes which files a release has: in JSON (PEP 691), or in HTML (PEP 503) where it must be."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import requests

from airgap.addresses import origin
from airgap.errors import ResolutionError
from airgap.network import Network
from airgap.sources.requirements_file import LockedRequirement

_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_WORKERS = 8
_ATTEMPTS = 4


@dataclass(frozen=True)
class IndexFile:
    """A file that an index offers."""

    file_name: str
    url: str
    sha256: str
    size: int | None


class PackageIndex:
    """The indexes that pip is configured for, asked in turn; what was found is remembered in the cache.

    A remembered answer is never stale: it lists files by the hashes in a lock, and those do not change.
    """

    def __init__(self, network: Network, cache: Path) -> None:
        self._network = network
        self._cache = cache / "index"
        self._session = network.session(_WORKERS)
        self._lock = threading.Lock()
        self._pages: dict[str, list[IndexFile]] = {}

    def files(self, requirements: Sequence[LockedRequirement]) -> dict[str, list[IndexFile]]:
        """Return, by name, the files of *requirements* whose hashes their lock accepts.

        Raises ResolutionError when an index cannot be asked or has none of them.
        """
        pool = ThreadPoolExecutor(_WORKERS)
        try:
            found = pool.map(self._files_of, requirements)
            return {requirement.name: files for requirement, files in zip(requirements, found, strict=True)}
        finally:
            # Not to wait for answers that nobody wants any more: after an error, or when the user interrupts.
            pool.shutdown(wait=False, cancel_futures=True)

    def _files_of(self, requirement: LockedRequirement) -> list[IndexFile]:
        remembered = self._cache / f"{self._key(requirement)}.json"
        try:
            return [IndexFile(**entry) for entry in json.loads(remembered.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError):
            pass
        for index in self._network.indexes:
            files = [file for file in self._page(index, requirement.name) if file.sha256 in requirement.hashes]
            if files:
                if not any("@" in urlsplit(address).netloc for address in (index, *(file.url for file in files))):
                    self._remember(remembered, files)
                return files
        raise ResolutionError(
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

    def _page(self, index: str, name: str) -> list[IndexFile]:
        address = f"{index.rstrip('/')}/{name}/"
        with self._lock:
            if address in self._pages:
                return self._pages[address]
        files = _read_directory(address) if urlsplit(address).scheme == "file" else self._ask(address, name)
        with self._lock:
            self._pages[address] = files
        return files

    def _ask(self, address: str, name: str) -> list[IndexFile]:
        reason = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(2.0 ** (attempt - 1))
            try:
                response = self._session.get(address, headers={"Accept": _ACCEPT}, timeout=self._network.timeout)
            except requests.RequestException as error:
                # The message would hold the address, with what it has of credentials.
                reason = "it cannot be reached" if isinstance(error, requests.ConnectionError) else "it does not answer"
                continue
            if response.status_code == 404:
                return []
            if response.status_code == 200:
                return parse_page(response.content, response.headers.get("Content-Type", ""), response.url)
            reason = f"it answered {response.status_code}"
            if response.status_code < 500 and response.status_code != 429:
                break
        raise ResolutionError(
            f"The package index {origin(address)} does not tell about {name} ({reason}): check the network and pip's "
            "configuration (pip config debug)."
        )


def parse_page(content: bytes, content_type: str, address: str) -> list[IndexFile]:
    """Return the files that the page at *address* lists with a SHA-256.

    Raises ResolutionError when the page is neither of the two formats.
    """
    if "json" not in content_type:
        parser = _LinkParser()
        parser.feed(content.decode("utf-8", "replace"))
        base = urljoin(address, parser.base) if parser.base else address
        return [file for link in parser.links if (file := _file_of_link(urljoin(base, link)))]
    try:
        return [
            IndexFile(entry["filename"], urljoin(address, entry["url"]), entry["hashes"]["sha256"], entry.get("size"))
            for entry in json.loads(content)["files"]
            if "sha256" in entry["hashes"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ResolutionError(
            f"The package index {origin(address)} sent a page that is no list of files: check pip's configuration."
        ) from error


def _read_directory(address: str) -> list[IndexFile]:
    page = Path(unquote(urlsplit(address).path)) / "index.html"
    return parse_page(page.read_bytes(), "text/html", address) if page.is_file() else []


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
