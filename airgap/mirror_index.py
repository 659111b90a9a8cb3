"""Keeps the indexes of the controller's mirror in step with its packages, whatever bundles and packs brought them.

Entries come from the indexes that are there, from those of bundles, and from descriptions of environments. An index has
one entry for each package file that is there, so that the same files give the same index, in whatever order they came.
Standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from airgap.durable import remove, write
from airgap.environment import Environment
from airgap.errors import ManifestError
from airgap.hashing import sha256_of_file
from airgap.index_formats import (
    parse_packages,
    parse_project,
    parse_repodata,
    render_packages,
    render_project,
    render_projects,
    render_release,
    render_repodata,
    sha256_of_stanza,
)

_CONDA = "conda"
_SIMPLE = "pypi/simple"
_APT_INDEX = "Packages"
_CONDA_SUFFIXES = (".conda", ".tar.bz2")

Indexes = Mapping[str, Path]
"""Index files of a bundle: where they are, by path below the mirror."""


def refresh(
    mirror: Path,
    indexes: Indexes | None = None,
    environments: Iterable[Environment] = (),
    without: Collection[Path] = (),
) -> int:
    """Bring the indexes below *mirror* up to date, and return how many files of them changed.

    *indexes* and *environments* describe packages that may not be indexed yet; *without* are packages that are about to
    be removed. Raises ManifestError when an index cannot be read.
    """
    given = dict(indexes or {})
    gone = frozenset(without)
    packages = [package for environment in environments for package in environment.files]
    records = {package.path: package.record for package in packages if package.record is not None}
    return (
        sum(_refresh_channel(mirror, subdir, given, records, gone) for subdir in _subdirs(mirror, given))
        + _refresh_simple(mirror, given, gone)
        + sum(_refresh_apt(mirror, directory, given, gone) for directory in _apt_directories(mirror, given))
    )


def _refresh_channel(
    mirror: Path, subdir: str, given: Indexes, described: Mapping[str, Mapping[str, Any]], gone: Collection[Path]
) -> int:
    directory = mirror / _CONDA / subdir
    there = _files(directory, _CONDA_SUFFIXES, gone)
    candidates = _gather(_texts(mirror, f"{_CONDA}/{subdir}/repodata.json", given), parse_repodata)
    for name in there - candidates.keys():
        if (record := described.get(f"{_CONDA}/{subdir}/{name}")) is not None:
            candidates[name] = [dict(record)]
    chosen = {
        name: _choose(directory / name, records, lambda record: record.get("sha256"))
        for name, records in candidates.items()
        if name in there
    }
    return int(write(directory / "repodata.json", render_repodata(subdir, chosen)))


def _refresh_simple(mirror: Path, given: Indexes, gone: Collection[Path]) -> int:
    wheels = mirror / "pypi"
    there = _files(wheels, (".whl",), gone)
    candidates: dict[str, list[str]] = {}
    for path in sorted({*given, *_below(mirror, f"{_SIMPLE}/*/index.html")}):
        if path.startswith(f"{_SIMPLE}/") and path.count("/") == 3:
            for name, sums in _gather(_texts(mirror, path, given), parse_project).items():
                candidates.setdefault(name, []).extend(sums)
    projects: dict[str, dict[str, str]] = {}
    for name in there:
        # Packs bring wheels without an index.
        sums = sorted(set(candidates.get(name, ()))) or [sha256_of_file(wheels / name)]
        chosen = _choose(wheels / name, sums, lambda sha256: sha256)
        projects.setdefault(_project(name), {})[name] = chosen
    changed = 0
    if projects or (mirror / _SIMPLE).is_dir():
        changed += write(mirror / _SIMPLE / "index.html", render_projects(projects))
    for project, files in sorted(projects.items()):
        changed += write(mirror / _SIMPLE / project / "index.html", render_project(files))
    for page in (mirror / _SIMPLE).glob("*/index.html"):
        if page.parent.name not in projects:
            remove(page, mirror)
            changed += 1
    return changed


def _refresh_apt(mirror: Path, path: str, given: Indexes, gone: Collection[Path]) -> int:
    directory = mirror / path
    there = _files(directory, (".deb",), gone)
    candidates = _gather(_texts(mirror, f"{path}/{_APT_INDEX}", given), parse_packages)
    chosen = {
        name: _choose(directory / name, stanzas, sha256_of_stanza)
        for name, stanzas in candidates.items()
        if name in there
    }
    packages = render_packages(chosen)
    return sum(
        (
            write(directory / _APT_INDEX, packages),
            write(directory / "Release", render_release(directory.name, packages)),
        )
    )


def _subdirs(mirror: Path, given: Indexes) -> list[str]:
    paths = {*given, *_below(mirror, f"{_CONDA}/*/repodata.json")}
    paths |= {f"{path}/repodata.json" for path in _below(mirror, f"{_CONDA}/*")}
    return sorted({path.split("/")[1] for path in paths if path.startswith(f"{_CONDA}/") and path.count("/") == 2})


def _apt_directories(mirror: Path, given: Indexes) -> list[str]:
    paths = {*given, *_below(mirror, f"**/{_APT_INDEX}")}
    return sorted({path.rpartition("/")[0] for path in paths if path.endswith(f"/{_APT_INDEX}")})


def _below(mirror: Path, pattern: str) -> Iterator[str]:
    return (path.relative_to(mirror).as_posix() for path in mirror.glob(pattern))


def _files(directory: Path, suffixes: tuple[str, ...], gone: Collection[Path]) -> set[str]:
    if not directory.is_dir():
        return set()
    return {
        path.name
        for path in directory.iterdir()
        if path.name.endswith(suffixes) and not path.name.startswith(".") and path not in gone
    }


def _texts(mirror: Path, path: str, given: Indexes) -> Iterator[tuple[Path, str]]:
    for place in (mirror / path, given.get(path)):
        if place is not None and place.is_file():
            yield place, place.read_text(encoding="utf-8")


def _gather(texts: Iterable[tuple[Path, str]], parse: Callable[[str], Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the different entries for each file name."""
    entries: dict[str, list[Any]] = {}
    for path, text in texts:
        try:
            parsed = parse(text)
        except (ValueError, KeyError, TypeError) as error:
            raise ManifestError(
                f"{path} is no index ({error!r}): remove it, and run install-pag-controller.sh again."
            ) from error
        for name, entry in parsed.items():
            known = entries.setdefault(name, [])
            if entry not in known:
                known.append(entry)
    return entries


def _choose(path: Path, entries: list[Any], sha256_of: Callable[[Any], str | None]) -> Any:
    """Return the one of *entries* that describes the file at *path*; of several, the same in any order."""
    if len(entries) > 1:
        actual = sha256_of_file(path)
        entries = [entry for entry in entries if sha256_of(entry) == actual] or entries
    return max(entries, key=lambda entry: json.dumps(entry, sort_keys=True))


def _project(wheel: str) -> str:
    """Return the normalized name (PEP 503) of the project that a wheel's file name begins with."""
    return re.sub(r"[-_.]+", "-", wheel.partition("-")[0]).lower()
