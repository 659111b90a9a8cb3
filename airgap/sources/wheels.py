"""Wheels from a Python package index: of each locked release the file that fits the target best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from airgap.errors import LockError, ResolutionError
from airgap.index_formats import render_project, render_projects
from airgap.sources.interface import Download, GeneratedFile, Source
from airgap.sources.package_index import IndexFile, PackageIndex
from airgap.sources.requirements_file import LockedRequirement, read_requirements
from airgap.targets import Target

# The C library that the oldest manylinux tags stand for.
_LEGACY_TAGS = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}
_OLDEST_GLIBC = {"x86_64": 5, "aarch64": 17}


class WheelSource(Source):
    """Wheels that hash-locked requirements files name."""

    def __init__(self, index: PackageIndex) -> None:
        self._index = index

    def resolve(
        self,
        requirements: Path,
        target: Target,
        python: str,
        found: Callable[[Iterable[Download]], None] = lambda downloads: None,
    ) -> list[Download]:
        """Return the wheels of the lock at *requirements* for *target* and the interpreter version *python*.

        *found* is told of each as soon as it is known, by any thread. Raises LockError when the lock is no lock, and
        ResolutionError when a release has no wheel that fits.
        """
        locked = read_requirements(requirements, marker_environment(target, python))
        ranking = {tag: rank for rank, tag in enumerate(wheel_tags(target, python))}

        def choose(requirement: LockedRequirement, files: Sequence[IndexFile]) -> Download:
            wheel = _choose(requirement, files, ranking, target, python)
            found([wheel])
            return wheel

        return self._index.choose(locked, choose)

    def versions(self, requirements: Path, target: Target, python: str) -> dict[str, str]:
        """Return the versions that the lock at *requirements* has for *target*, by name; raises LockError."""
        locked = read_requirements(requirements, marker_environment(target, python))
        return {requirement.name: requirement.version for requirement in locked}

    def elsewhere(self, download: Download) -> Iterator[str]:
        """Yield where else the indexes have *download*."""
        return self._index.elsewhere(download)

    def index(self, downloads: Sequence[Download]) -> Iterable[GeneratedFile]:
        """Yield the simple index (PEP 503) over *downloads*."""
        projects: dict[str, list[Download]] = {}
        for download in downloads:
            projects.setdefault(str(canonicalize_name(download.name)), []).append(download)
        yield GeneratedFile("mirror/pypi/simple/index.html", render_projects(projects), "index")
        for name, members in sorted(projects.items()):
            page = render_project({download.display_name: download.sha256 for download in members})
            yield GeneratedFile(f"mirror/pypi/simple/{name}/index.html", page, "index")


def marker_environment(target: Target, python: str) -> dict[str, str]:
    """Return the values of PEP 508's markers on *target* with the interpreter version *python*."""
    parts = python.split(".")
    minor = ".".join(parts[:2])
    full = (
        python if len(parts) > 2 else target.release.python_release if minor == target.release.python else f"{minor}.0"
    )
    return {
        "implementation_name": "cpython",
        "implementation_version": full,
        "os_name": "posix",
        "platform_machine": target.architecture,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": full,
        "python_version": minor,
        "sys_platform": "linux",
        "extra": "",
    }


def wheel_tags(target: Target, python: str) -> Iterator[Tag]:
    """Yield the tags of wheels that run on *target* with that interpreter, the best first."""
    major, minor = (int(part) for part in python.split(".")[:2])
    platforms = list(_platforms(target))
    yield from cpython_tags((major, minor), platforms=platforms)
    yield from compatible_tags((major, minor), interpreter=f"cp{major}{minor}", platforms=platforms)


def _platforms(target: Target) -> Iterator[str]:
    glibc_minor = int(target.release.glibc.partition(".")[2])
    for minor in range(glibc_minor, _OLDEST_GLIBC[target.architecture] - 1, -1):
        yield f"manylinux_2_{minor}_{target.architecture}"
        if legacy := _LEGACY_TAGS.get((2, minor)):
            yield f"{legacy}_{target.architecture}"
    yield f"linux_{target.architecture}"


def _choose(
    requirement: LockedRequirement, files: Sequence[IndexFile], ranking: Mapping[Tag, int], target: Target, python: str
) -> Download:
    fitting: list[tuple[int, int, str, IndexFile]] = []
    for file in files:
        try:
            name, _version, build, tags = parse_wheel_filename(file.file_name)
        except InvalidWheelFilename:
            continue  # a source archive
        ranks = [ranking[tag] for tag in tags if tag in ranking]
        if not ranks:
            continue
        if name != requirement.name:
            raise LockError(f"The hashes of {requirement.name} {requirement.version} are those of {name}: lock again.")
        # Of equal tags, the highest build number, and then the name so that the choice does not depend on the index.
        fitting.append((min(ranks), -(build[0] if build else -1), file.file_name, file))
    if not fitting:
        raise ResolutionError(
            f"{requirement.name} {requirement.version} has no wheel for {target.name} with Python {python} among the "
            "files that the lock names: take a version that has one, or build the wheel and put it into your index."
        )
    file = min(fitting, key=lambda entry: entry[:3])[3]
    return Download(
        url=file.url,
        path=f"mirror/pypi/{file.file_name}",
        sha256=file.sha256,
        size=file.size,
        kind="wheel",
        name=requirement.name,
        version=requirement.version,
    )
