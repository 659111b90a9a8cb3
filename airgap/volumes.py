"""Volumes: an archive in numbered pieces that fit on media, with an index of their checksums.

``NAME.001``, ``NAME.002``, ... one after the other are the archive ``NAME``; ``NAME.sha256`` lists them as sha256sum
does, in order, and the archive itself in its last line. Standard library only.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from airgap.errors import UsageError, VerificationError
from airgap.hashing import sha256_of_file
from airgap.output import partial_file, partial_path
from airgap.read_ahead import read_ahead

_SMALLEST_SIZE = 1024**2
_UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3}
_SIZE = re.compile(r"(?P<number>[0-9]{1,15})(?P<unit>[KMG])")
_SHORTEST_NUMBER = 3
_INDEX_SUFFIX = ".sha256"
_VOLUME = re.compile(r"(?P<archive>.+)\.[0-9]{3,}")
_INDEX_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<name>[^/]+)")
# Read before anything is known of it; this is some hundred thousand volumes.
_LARGEST_INDEX = 16 * 1024**2
_BLOCK_BYTES = 1024**2
_MOST_NAMED = 20


def parse_size(text: str) -> int:
    """Return the bytes that *text* means, such as ``700M``: K, M and G are 1024-based.

    Raises UsageError for anything else, and for sizes that make no volume.
    """
    match = _SIZE.fullmatch(text.strip().upper())
    if match is None:
        raise UsageError(f"--split-size wants a number and K, M or G, such as 700M or 4G, and not {text!r}.")
    size = int(match["number"]) * _UNITS[match["unit"]]
    if size < _SMALLEST_SIZE:
        raise UsageError(f"--split-size {text} is too small for a volume: give 1M or more.")
    return size


@dataclass(frozen=True)
class Written:
    """Volumes that were written."""

    index: Path
    volumes: int
    size: int
    """Bytes of all volumes."""


def write_volumes(output: Path, blocks: Iterable[bytes], size: int, companion: tuple[str, bytes]) -> Written:
    """Write the archive that *blocks* are as volumes of less than *size* bytes, and their index.

    *companion* is the name and the content of a program to put beside them. Volumes of an earlier build are replaced
    when all is written: the index is removed first and appears last, so that an index stands for whole volumes
    whenever this is interrupted. A plain archive of an earlier build is removed after that. Raises what *blocks* and
    :func:`airgap.output.partial_file` raise.
    """
    with partial_file(output):
        sums, whole, total = _write_parts(output, blocks, size - 1)
        width = max(_SHORTEST_NUMBER, len(str(len(sums))))
        names = [f"{output.name}.{number:0{width}}" for number in range(1, len(sums) + 1)]
        lines = [*zip(sums, names, strict=True), (whole, output.name)]
        _part(output, "index").write_text("".join(f"{sha256}  {name}\n" for sha256, name in lines), encoding="utf-8")
        _part(output, "companion").write_bytes(companion[1])
        # Media's own file systems (FAT) have no modes.
        with suppress(PermissionError):
            _part(output, "companion").chmod(0o755)
        index = output.with_name(output.name + _INDEX_SUFFIX)
        index.unlink(missing_ok=True)
        for path in _volumes_of(output):
            if path.name not in names:
                path.unlink()
        for number, name in enumerate(names, 1):
            _part(output, str(number)).replace(output.with_name(name))
        beside = output.with_name(companion[0])
        if not beside.is_file() or beside.read_bytes() != companion[1]:
            _part(output, "companion").replace(beside)
        _part(output, "index").replace(index)
        output.unlink(missing_ok=True)
    return Written(index, len(names), total)


def remove_volumes(archive: Path) -> None:
    """Remove the volumes of *archive*, their index first, so that an index stands for whole volumes."""
    index = archive.with_name(archive.name + _INDEX_SUFFIX)
    # A plain archive may have its checksum beside it, too.
    if _is_index(index):
        index.unlink()
    for path in _volumes_of(archive):
        path.unlink()


def _write_parts(output: Path, blocks: Iterable[bytes], limit: int) -> tuple[list[str], str, int]:
    """Write volumes under temporary names; return the SHA-256 of each, that of all together, and all their bytes."""
    sums: list[str] = []
    whole, total = hashlib.sha256(), 0
    # Threads: one hashes volumes, this one hashes the whole and writes.
    pieces = read_ahead(_cut(blocks, limit))
    with closing(pieces):
        last = False
        while not last:
            with _part(output, str(len(sums) + 1)).open("wb") as stream:
                for piece, sha256, is_last in pieces:
                    whole.update(piece)
                    total += stream.write(piece)
                    if sha256 is not None:
                        sums.append(sha256)
                        last = is_last
                        break
    return sums, whole.hexdigest(), total


def _cut(blocks: Iterable[bytes], limit: int) -> Iterator[tuple[memoryview, str | None, bool]]:
    """Yield *blocks*, cut where volumes end: piece, the volume's SHA-256 after its last piece, whether that was all."""
    digest, filled = hashlib.sha256(), 0
    for block in blocks:
        rest = memoryview(block)
        while rest:
            if filled == limit:
                yield memoryview(b""), digest.hexdigest(), False
                digest, filled = hashlib.sha256(), 0
            piece, rest = rest[: limit - filled], rest[limit - filled :]
            digest.update(piece)
            filled += len(piece)
            yield piece, None, False
    yield memoryview(b""), digest.hexdigest(), True


def _part(output: Path, suffix: str) -> Path:
    partial = partial_path(output)
    return partial.with_name(f"{partial.name}.{suffix}")


def _volumes_of(archive: Path) -> list[Path]:
    return [
        path
        for path in archive.parent.iterdir()
        if (match := _VOLUME.fullmatch(path.name)) and match["archive"] == archive.name
    ]


@dataclass(frozen=True)
class Volumes:
    """All volumes of an archive, in order."""

    index: Path
    paths: tuple[Path, ...]
    sums: tuple[str, ...]

    def blocks(self) -> Iterator[bytes]:
        """Yield what is in the volumes; raise VerificationError after the last block of one that is damaged."""
        for path, sha256 in zip(self.paths, self.sums, strict=True):
            digest = hashlib.sha256()
            with path.open("rb") as stream:
                while block := stream.read(_BLOCK_BYTES):
                    digest.update(block)
                    yield block
            if digest.hexdigest() != sha256:
                raise _damaged([path])

    @contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        """Open the archive as one stream, without joining it on disk; errors as in :meth:`blocks`."""
        with closing(read_ahead(self.blocks())) as blocks:
            yield io.BufferedReader(_Stream(blocks), _BLOCK_BYTES)

    def check(self) -> None:
        """Hash all volumes; raise VerificationError that names those that are damaged."""
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(sha256_of_file, self.paths))
        damaged = [path for path, one, other in zip(self.paths, found, self.sums, strict=True) if one != other]
        if damaged:
            raise _damaged(damaged)


def _damaged(paths: Sequence[Path]) -> VerificationError:
    return VerificationError(f"{_named([str(path) for path in paths])}: damaged, copy it over again.")


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


class _Stream(io.RawIOBase):
    """Reads blocks one after the other."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader gives
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = memoryview(block)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def find_volumes(places: Sequence[Path]) -> Volumes | None:
    """Return the volumes that *places* name: volumes, their index, or directories that hold them.

    Returns None when none of *places* has to do with volumes. Raises VerificationError when volumes or their index are
    missing, or belong to different archives.
    """
    directories = list(dict.fromkeys(place if place.is_dir() else place.parent for place in places))
    archives = {name for place in places for name in _archives_at(place)}
    if not archives:
        return None
    indexes: dict[bytes, Path] = {}
    for path in (directory / f"{name}{_INDEX_SUFFIX}" for directory in directories for name in sorted(archives)):
        if path.is_file():
            indexes.setdefault(_read_index(path), path)
    if not indexes:
        name = f"{min(archives)}{_INDEX_SUFFIX}"
        raise VerificationError(f"The volumes' index {name} is not beside them: copy it over as well.")
    if len(indexes) > 1:
        paths = sorted(map(str, indexes.values()))
        raise VerificationError(f"{paths[0]} and {paths[1]} are of different bundles: give one bundle's volumes only.")
    ((content, index),) = indexes.items()
    sums = _parse_index(content, index)
    found = {name: path for directory in reversed(directories) for name in sums if (path := directory / name).is_file()}
    if missing := [name for name in sums if name not in found]:
        raise VerificationError(
            f"{len(missing)} of the {len(sums)} volumes are missing ({_named(missing)}): copy them over, or name the "
            "directories where they are as well."
        )
    return Volumes(index, tuple(found[name] for name in sums), tuple(sums.values()))


def _archives_at(place: Path) -> Iterator[str]:
    """Yield the names of the archives that *place* has to do with as volumes."""
    for path in place.iterdir() if place.is_dir() else [place]:
        if (match := _VOLUME.fullmatch(path.name)) and not path.is_dir():
            yield match["archive"]
        # A plain archive may have its checksum beside it, too.
        elif path.name.endswith(_INDEX_SUFFIX) and (path == place or _is_index(path)):
            yield path.name.removesuffix(_INDEX_SUFFIX)


def _is_index(path: Path) -> bool:
    try:
        return path.is_file() and bool(_parse_index(_read_index(path), path))
    except VerificationError:
        return False


def _read_index(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_LARGEST_INDEX)


def _parse_index(content: bytes, path: Path) -> dict[str, str]:
    """Return the volumes of the index with that *content*, in order, and their SHA-256."""
    lines = content.decode("utf-8", "replace").splitlines()
    matches = [match for line in lines if (match := _INDEX_LINE.fullmatch(line))]
    volumes = matches[:-1]
    archive = matches[-1]["name"] if matches else ""
    width = max(_SHORTEST_NUMBER, len(str(len(volumes))))
    names = [f"{archive}.{number:0{width}}" for number in range(1, len(volumes) + 1)]
    if not volumes or len(matches) != len(lines) or [match["name"] for match in volumes] != names:
        raise VerificationError(f"{path} is no index of volumes, or a damaged one: copy it over again.")
    return {match["name"]: match["sha256"] for match in volumes}
