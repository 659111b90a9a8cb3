"""Reads the lists of a bundle without reading all of it: in an archive they come first. Nothing is verified."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from airgap.errors import VerificationError
from airgap.manifest import BUNDLE_DIRECTORY, MANIFEST_NAME
from airgap.volumes import find_volumes

# They are read before anything is known of them: more than this is no list of ours.
_LARGEST_LIST = 64 * 1024 * 1024
_GZIP = b"\x1f\x8b"


def read_head(places: Sequence[Path], names: Iterable[str]) -> dict[str, bytes]:
    """Return the contents of those of *names*, below the bundle's root, that the bundle at *places* has.

    *places* are an archive, a directory that a bundle was unpacked to, or where its volumes are. Raises
    VerificationError when they are none of these.
    """
    wanted = set(names)
    path = places[0]
    try:
        if (volumes := find_volumes(places)) is not None:
            with volumes.open() as raw:
                return _read_archive(raw, wanted)
        if path.is_dir():
            return {name: (path / name).read_bytes() for name in wanted if (path / name).is_file()}
        with path.open("rb") as raw:
            return _read_archive(raw, wanted)
    except FileNotFoundError:
        raise VerificationError(f"{path} does not exist: name a bundle.") from None
    except (EOFError, tarfile.TarError, zlib.error, gzip.BadGzipFile) as error:
        raise VerificationError(f"{path} is no bundle, or a damaged one ({error}): copy it over again.") from error
    except OSError as error:
        raise VerificationError(f"{path} cannot be read ({error.strerror or error}): copy it over again.") from error


def read_manifest(path: Path) -> bytes:
    """Return the text of the manifest of the bundle at *path*, which may also be the manifest itself.

    Raises VerificationError when there is none.
    """
    if path.suffix == ".json" and path.is_file():
        return path.read_bytes()
    content = read_head([path], [MANIFEST_NAME]).get(MANIFEST_NAME)
    if content is None:
        raise VerificationError(f"{path} has no {MANIFEST_NAME}: it is no bundle.")
    return content


def _read_archive(raw: io.BufferedReader, names: set[str]) -> dict[str, bytes]:
    compressed = raw.peek(len(_GZIP)).startswith(_GZIP)
    stream = gzip.GzipFile(fileobj=raw, mode="rb") if compressed else raw
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            name = member.name.removeprefix(f"{BUNDLE_DIRECTORY}/")
            if name in names and member.isreg() and member.size <= _LARGEST_LIST:
                content = tar.extractfile(member)
                assert content is not None  # noqa: S101  for the type checker: it is a plain file
                found[name] = content.read()
                if len(found) == len(names):
                    break
    return found
