"""Whether installed wheels are what their archives hold.

uv links files out of its cache as they are. What somebody wrote into an environment, and so into the cache, would
spread to every environment that is installed later.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from airgap.environment import PackageFile


def changed_wheels(wheels: Iterable[PackageFile], mirror: Path, library: Path) -> list[PackageFile]:
    """Return those of *wheels* whose files in *library* (``site-packages``) are not those of their archive in *mirror*.

    Compares sizes and CRC-32: this finds accidents. Only root could do it on purpose, and root needs no such detour.
    """
    with ThreadPoolExecutor() as pool:
        checked = list(pool.map(lambda wheel: (wheel, _is_unchanged(mirror / wheel.path, library)), wheels))
    return [wheel for wheel, unchanged in checked if not unchanged]


def _is_unchanged(archive_path: Path, library: Path) -> bool:
    with zipfile.ZipFile(archive_path) as archive:
        for member in archive.infolist():
            # Installers rewrite the list of files, and put what is in .data/ elsewhere, with changes to scripts.
            if member.is_dir() or ".data/" in member.filename or member.filename.endswith(".dist-info/RECORD"):
                continue
            try:
                content = (library / member.filename).read_bytes()
            except OSError:
                return False
            if len(content) != member.file_size or zlib.crc32(content) != member.CRC:
                return False
    return True
