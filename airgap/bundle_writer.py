"""Writes a bundle as its options say: one archive, or volumes."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from airgap.archive import Pieces, write_blocks
from airgap.cache import Cache
from airgap.errors import AirgapError
from airgap.output import left_behind
from airgap.plan import BuildOptions
from airgap.progress import human_size
from airgap.sources.files import INSTALLER_NAME


@dataclass(frozen=True)
class Written:
    """A bundle that was written."""

    output: Path
    """The archive, or the index of its volumes."""
    volumes: int
    """How many; 0 for one archive."""
    size: int
    """Bytes of all of them."""


def write_bundle(options: BuildOptions, blocks: Iterable[Pieces], installer: bytes) -> Written:
    """Write the archive that *blocks* are, with the program *installer* beside it where it is in volumes."""
    if options.split_size is None:
        return Written(options.output, 0, write_blocks(options.output, blocks))
    from airgap.volumes import write_volumes

    written = write_volumes(
        options.output, map(b"".join, blocks), options.split_size, companion=(INSTALLER_NAME, installer)
    )
    return Written(written.index, written.volumes, written.size)


def check_room(options: BuildOptions, size: int, sizes: Mapping[str, int], cache: Cache) -> None:
    """Raise AirgapError when there is no room for what is missing in *cache*, and for an output of *size* bytes.

    *sizes* are the bytes of all files that the cache will have, by SHA-256.
    """
    needs = {
        options.cache: sum(size for sha256, size in sizes.items() if not cache.path(sha256).exists()),
        # What an earlier build left there when it was killed, this one writes over.
        options.output.parent: size - left_behind(options.output),
    }
    existing = {
        directory: next(path for path in (directory, *directory.resolve().parents) if path.exists())
        for directory in needs
    }
    devices = {path.stat().st_dev for path in existing.values()}
    for device in devices:
        directories = [directory for directory, path in existing.items() if path.stat().st_dev == device]
        size = sum(needs[directory] for directory in directories)
        free = shutil.disk_usage(existing[directories[0]]).free
        if free < size:
            raise AirgapError(
                f"{' and '.join(map(str, directories))}: {human_size(free)} are free there and {human_size(size)} are "
                "needed: make room, or name other places with --cache and --output."
            )
