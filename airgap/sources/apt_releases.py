"""Whether archives still have the signed lists that an earlier answer of apt rests on.

A release is signed as a whole: its ``InRelease`` names the hashes of all its package lists. Where that file is the same
byte for byte, nothing in the archive has changed. It is fetched whole each time, so that no cache on the way, and no
wrong clock, can say "not modified".

Builds that write again what they wrote before have little more to do than this: it loads late what it seldom needs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from airgap.addresses import local_path
from airgap.errors import ResolutionError
from airgap.hashing import sha256_of_bytes, sha256_of_file
from airgap.sources.apt_archives import AptRepository, Archive
from airgap.sources.apt_root import Apt

_VALID_UNTIL = "Valid-Until:"
_DOWNLOADER = "/usr/lib/apt/apt-helper"
# An archive that is slower is left to apt, which says what is wrong.
_PATIENCE = ("-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::https::Timeout=10")


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


def still_there(releases: Releases, addresses: Sequence[str], apt: Apt, directory: Path) -> bool:
    """Return whether exactly *releases* are at *addresses*, and are valid; False too when that cannot be found out.

    They are fetched into *directory*, which is nobody else's.
    """
    if releases.valid_until is not None and releases.valid_until <= time.time():
        return False
    try:
        directory.mkdir(exist_ok=True)
        fetched = [directory / str(number) for number in range(len(addresses))]
        local = [local_path(address) for address in addresses]
        words = []
        for address, path, here in zip(addresses, fetched, local, strict=True):
            # apt would go on with what is there, as it does with a download that broke off.
            path.unlink(missing_ok=True)
            if here is None:
                words += [address, str(path), ""]
        if words:
            # By apt's own downloader: it knows the way, and is there before a client of ours would be loaded.
            apt.run(_DOWNLOADER, *_PATIENCE, "download-file", *words)
        sums = sorted(sha256_of_file(here or path) for path, here in zip(fetched, local, strict=True))
    except (ResolutionError, OSError):
        return False
    return tuple(sums) == releases.sums


def _end_of(content: bytes) -> float | None:
    from email.utils import parsedate_to_datetime

    for line in content.decode("utf-8", "replace").splitlines():
        if line.startswith(_VALID_UNTIL):
            return parsedate_to_datetime(line.removeprefix(_VALID_UNTIL).strip()).timestamp()
    return None
