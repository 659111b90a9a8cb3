"""What every source gives the builder: files to download, and the index files that make them a repository."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airgap.manifest import Kind


@dataclass(frozen=True)
class Download:
    """A package to fetch: where from, what it must be, and where it goes."""

    url: str
    """May hold credentials: show :attr:`display_name` only."""
    path: str
    """Below the bundle's root."""
    sha256: str
    size: int | None
    """Bytes; None when the source does not say."""
    kind: Kind
    name: str
    version: str
    licence: str | None = None
    record: Mapping[str, Any] | None = None
    """For conda packages, the channel's record, without the channel's address."""
    channel: str | None = None
    """For conda packages, the name of the channel that the lock names: no address."""
    mirrors: tuple[str, ...] = ()
    """Where else the same file is, in the order to try; may hold credentials."""

    @property
    def urls(self) -> tuple[str, ...]:
        """All addresses of the file, in the order to try."""
        return (self.url, *self.mirrors)

    @property
    def display_name(self) -> str:
        """What logs and errors call it."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class GeneratedFile:
    """A file that the builder writes itself, or takes from the checkout."""

    path: str
    """Below the bundle's root."""
    content: bytes
    kind: Kind
    name: str | None = None
    version: str | None = None
    licence: str | None = None
    executable: bool = False


class Source(ABC):
    """One kind of package repository. Knows nothing of the other kinds."""

    @abstractmethod
    def index(self, downloads: Sequence[Download]) -> Iterable[GeneratedFile]:
        """Return the files that make *downloads* a working repository of this kind.

        The packages themselves are not there: of a delta, most are at the site only.
        """
