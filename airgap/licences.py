"""The licences of packages, as they state them themselves, in SPDX's terms where that can be said.

What was read out of a file is remembered in the cache by the file's SHA-256: a second build opens no package.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from airgap.cache import Cache
from airgap.deb_reader import read_copyright
from airgap.debian_copyright import licence_of_copyright
from airgap.errors import ResolutionError
from airgap.progress import Progress
from airgap.sources.interface import Download
from airgap.spdx import in_spdx
from airgap.wheel_licence import wheel_licence

# Of what is remembered: another number when the same file would now be read differently.
_FORMAT = 1
_MOST_LINKS = 5


@dataclass(frozen=True)
class Statement:
    """What a package says of its licence."""

    licence: str | None = None
    package: str | None = None
    """The Debian package whose licence it has too."""


def read_licences(
    packages: Iterable[Download], cache: Cache, progress: Progress, relied_on: Iterable[Download] = ()
) -> dict[str, str | None]:
    """Return the licences of *packages* by their paths; None where a package states none that a program can read.

    Of a package that is not in *cache*, what was read of it earlier is known, else what its source says. *relied_on*
    are packages whose licences are known, and may be those of packages that are asked for.
    """
    packages = list(packages)
    unread = {package.sha256: package for package in packages if package.kind in ("deb", "wheel")}
    statements = {sha256: known for sha256 in unread if (known := _recall(cache, sha256)) is not None}
    missing = [
        package for sha256, package in unread.items() if sha256 not in statements and cache.path(sha256).exists()
    ]
    if missing:
        statements |= _read_all(missing, cache, progress)
    debian = {
        (package.path.rpartition("/")[0], package.name): Statement(package.licence)
        for package in relied_on
        if package.kind == "deb"
    }
    debian |= {
        (package.path.rpartition("/")[0], package.name): statements.get(package.sha256, Statement())
        for package in packages
        if package.kind == "deb"
    }
    licences: dict[str, str | None] = {}
    for package in packages:
        statement = statements.get(package.sha256, Statement())
        for _ in range(_MOST_LINKS):
            if statement.package is None:
                break
            statement = debian.get((package.path.rpartition("/")[0], statement.package), Statement())
        stated = statement.licence or package.licence
        licences[package.path] = in_spdx(stated) if stated else None
    return licences


def read_ahead(package: Download, cache: Cache) -> None:
    """Remember the licence of *package*, which has just arrived in *cache*, while others still arrive.

    A package that cannot be read is left to :func:`read_licences`, which tells.
    """
    if package.kind not in ("deb", "wheel") or _recall(cache, package.sha256) is not None:
        return
    try:
        _remember(cache, package.sha256, _read(package, cache.path(package.sha256)))
    except (ResolutionError, OSError):
        return


def _read_all(packages: Iterable[Download], cache: Cache, progress: Progress) -> Mapping[str, Statement]:
    sizes = {package.sha256: cache.path(package.sha256).stat().st_size for package in packages}
    # The largest first: at the end all threads are still busy.
    ordered = sorted(packages, key=lambda package: (-sizes[package.sha256], package.sha256))
    problems: list[str] = []

    def read(package: Download) -> Statement:
        try:
            statement = _read(package, cache.path(package.sha256))
        except ResolutionError as error:
            problems.append(str(error))
            return Statement()
        finally:
            progress.received(sizes[package.sha256])
            progress.finished_file()
        _remember(cache, package.sha256, statement)
        return statement

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with progress.transfer(len(ordered), sum(sizes.values())):
            statements = dict(zip((package.sha256 for package in ordered), pool.map(read, ordered), strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    if problems:
        progress.note(f"Licences not known, of {len(problems)}: {min(problems)}")
    return statements


def _read(package: Download, path: Path) -> Statement:
    if package.kind == "wheel":
        return Statement(wheel_licence(path))
    found = read_copyright(path, package.name)
    return Statement(licence_of_copyright(found.text) if found.text else None, found.package)


def _place(cache: Cache, sha256: str) -> Path:
    return cache.root / "licences" / str(_FORMAT) / sha256[:2] / f"{sha256}.json"


def _recall(cache: Cache, sha256: str) -> Statement | None:
    try:
        return Statement(**json.loads(_place(cache, sha256).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _remember(cache: Cache, sha256: str, statement: Statement) -> None:
    path = _place(cache, sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Another builder may be writing the same: each has a file of its own, and one of them stays.
    temporary = path.with_name(f".{sha256}.{os.getpid()}.{threading.get_ident()}")
    temporary.write_text(json.dumps(asdict(statement)), encoding="utf-8")
    temporary.replace(path)
