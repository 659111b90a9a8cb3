"""Whether archives still have the signed lists that an earlier answer of apt rests on.

A release is signed as a whole: its ``InRelease`` names the hashes of all its package lists. Where that file is the same
byte for byte, nothing in the archive has changed. It is fetched whole each time, so that no cache on the way, and no
wrong clock, can say "not modified".
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from airgap.hashing import sha256_of_bytes
from airgap.network import Network
from airgap.sources.apt_archives import AptRepository, Archive

_VALID_UNTIL = "Valid-Until:"
# More than ten times what the largest distributions have.
_LARGEST = 16 * 1024**2
# An archive that is slower is left to apt, which says what is wrong.
_LONGEST_WAIT = 10.0


@dataclass(frozen=True)
class Releases:
    """The signed lists of some repositories."""

    sums: tuple[str, ...]
    """SHA-256 of each InRelease, sorted."""
    valid_until: float | None
    """When the first of them ends to be valid, in seconds since 1970; None where none says."""


def read_releases(lists: Path) -> Releases:
    """Return the releases that apt has in its directory *lists*."""
    contents = [path.read_bytes() for path in lists.glob("*InRelease")]
    ends = [end for content in contents if (end := _end_of(content)) is not None]
    return Releases(tuple(sorted(map(sha256_of_bytes, contents))), min(ends, default=None))


def addresses_of(archive: Archive, repositories: Sequence[AptRepository]) -> list[str]:
    """Return where the InRelease of each suite of *archive* and of *repositories* is."""
    suites = [*archive.suites, *((repository.uri, repository.suite) for repository in repositories)]
    return [
        # A flat repository's suite is a path.
        f"{uri.rstrip('/')}/{suite.lstrip('/')}InRelease"
        if suite.endswith("/")
        else f"{uri.rstrip('/')}/dists/{suite}/InRelease"
        for uri, suite in dict.fromkeys(suites)
    ]


def still_there(releases: Releases, addresses: Sequence[str], network: Network) -> bool:
    """Return whether exactly *releases* are at *addresses*, and are valid; False too when that cannot be found out."""
    if releases.valid_until is not None and releases.valid_until <= time.time():
        return False
    with ThreadPoolExecutor(len(addresses)) as pool:
        found = list(pool.map(lambda address: _sum_of(address, network), addresses))
    return None not in found and tuple(sorted(map(str, found))) == releases.sums


def _sum_of(address: str, network: Network) -> str | None:
    parts = urlsplit(address)
    if parts.scheme == "file":
        path = Path(unquote(parts.path))
        return sha256_of_bytes(path.read_bytes()) if path.is_file() else None
    # Loaded here: it takes as long as the answer does, beside other work.
    import requests

    try:
        with (
            network.session_for_debs(1) as session,
            closing(session.get(address, stream=True, timeout=min(network.timeout, _LONGEST_WAIT))) as response,
        ):
            content: bytes = response.raw.read(_LARGEST, decode_content=True)
            return sha256_of_bytes(content) if response.status_code == 200 else None
    except (requests.RequestException, OSError):
        return None


def _end_of(content: bytes) -> float | None:
    for line in content.decode("utf-8", "replace").splitlines():
        if line.startswith(_VALID_UNTIL):
            return parsedate_to_datetime(line.removeprefix(_VALID_UNTIL).strip()).timestamp()
    return None
