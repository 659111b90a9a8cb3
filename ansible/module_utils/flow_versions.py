"""Versions of flows on a node: which are there as a whole, which are in use, and removing the others.

Standard library only. What is where: ``/opt/prefect/flows/<flow>/<version>/`` has the code, ``.environment`` (a link to
``/opt/prefect/envs/<flow>-<digest>``), and ``.complete``, which is written last.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.flow_registry import ENVIRONMENT, MARKER, bytes_below, discard, leftovers

_HEX = "[0-9a-f]{12}"
_VERSION = re.compile(_HEX)
# Of a process: how it was started, where it works, and what it has loaded.
_TEXTS = ("cmdline", "environ", "maps")
_LINKS = ("cwd", "exe")
# A worker that has looked for a run's hooks stays in that version's directory, and never needs it again.
_WORKER = b"\0worker\0start\0"
_LINKS_OF_WORKERS = ("exe",)


@dataclass(frozen=True)
class Places:
    """Where a node has its flows and their environments."""

    flows: Path
    environments: Path

    def versions(self, flow: str | None = None) -> list[Path]:
        """Return the directories of versions, of all flows or one, sorted."""
        return sorted(
            path
            for path in self.flows.glob(f"{flow or '[!.]*'}/*")
            if _VERSION.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
        )

    def environments_of(self, flow: str) -> list[Path]:
        """Return the environments of a flow, and links that an earlier release made, sorted."""
        pattern = re.compile(rf"{re.escape(flow)}-{_HEX}")
        return sorted(path for path in self.environments.glob(f"{flow}-*") if pattern.fullmatch(path.name))

    def in_use(self, proc: Path = Path("/proc")) -> set[Path]:
        """Return the versions and environments that processes of this node use."""
        roots = {re.escape(str(root)): root for root in (self.flows, self.environments)}
        flows, environments = roots
        used = re.compile(rf"{flows}/[^/\0\n]+/{_HEX}(?![^/\0\n:= ])|{environments}/[^/\0\n]+-{_HEX}(?![^/\0\n:= ])")
        found: set[Path] = set()
        for text in _texts(proc):
            found.update(Path(match) for match in used.findall(text))
        return found


def environment_of(version: Path) -> Path | None:
    """Return the environment that a version runs in on this node, None for one of an earlier release."""
    link = version / ENVIRONMENT
    return Path(os.path.normpath(version / link.readlink())) if link.is_symlink() else None


def is_complete(version: Path, marker: str, digest: str, environment: Path, common: Path | None) -> bool:
    """Return whether a node has a version as a whole: its code as it was deployed, and its environment.

    *marker* is what is written last, *digest* the code's. An earlier release had, instead of the link to *environment*,
    the *common* name of it.
    """
    try:
        if (version / MARKER).read_text(encoding="utf-8") != marker or not (environment / MARKER).is_file():
            return False
        if common is not None and not (common / MARKER).is_file():
            return False
        if common is None and (version / ENVIRONMENT).resolve() != environment.resolve():
            return False
        return code_digest(version) == digest
    except OSError:
        return False


def code_digest(version: Path) -> str:
    """Return the digest over names and contents of a version's code, as ``flow_source.py`` has it. Raises OSError."""
    names = []
    for parent, _, files in os.walk(version):
        names += [Path(parent, name).relative_to(version).as_posix() for name in files]
        names += [
            path.relative_to(version).as_posix()
            for path in Path(parent).iterdir()
            if path.is_symlink() and path.is_dir()
        ]
    digest = hashlib.sha256()
    for name in sorted(set(names) - {MARKER, ENVIRONMENT}):
        content = hashlib.sha256((version / name).read_bytes()).hexdigest()
        digest.update(f"{content}  {name}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Unused:
    """What a node has and nothing needs."""

    versions: tuple[Path, ...]
    environments: tuple[Path, ...]
    kept: tuple[Path, ...]
    """What nothing but a process uses, and so stays until the next time."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Everything that would be removed."""
        return self.versions + self.environments


def find_unused(
    places: Places, keep: dict[str, list[str]], names: Iterable[str] = (), proc: Path = Path("/proc")
) -> Unused:
    """Return what is not in *keep* (versions by flow) nor in use, of the flows that *keep* has, and of no others.

    *names* are those of environments that stay in any case.
    """
    used = places.in_use(proc)
    superfluous = [
        path for flow, versions in sorted(keep.items()) for path in places.versions(flow) if path.name not in versions
    ]
    doomed = [path for path in superfluous if path not in used]
    # Also those of flows that share a name: an environment is its flow's alone, and links say which version has which.
    linked = {environment_of(path) for path in places.versions() if path not in doomed}
    environments = [
        path
        for flow in sorted(keep)
        for path in places.environments_of(flow)
        if path.name not in names and path not in linked
    ]
    # A name of an earlier release goes before what it leads to.
    environments.sort(key=lambda path: not path.is_symlink())
    through = {path.parent / path.readlink() for path in environments if path.is_symlink() and path in used}
    busy = [path for path in environments if path in used | through]
    return Unused(
        tuple(doomed),
        tuple(path for path in environments if path not in busy),
        tuple(sorted({*(path for path in superfluous if path in used), *busy})),
    )


def unfinished(places: Places) -> list[Path]:
    """Return what removals that were interrupted have left."""
    found = list(leftovers(places.environments))
    for flow in places.flows.glob("[!.]*"):
        found += leftovers(flow)
    return [path for path in found if path.name.endswith(".removed")]


def remove_unused_packages(cache: Path, environments: Path) -> int:
    """Remove packages from the *cache* of which no environment has a file; return how many bytes became free.

    Environments share files with it by hard links: a package that nothing else has a link to is in no environment. One
    of which environments have copies only is unpacked again by the next installation. Raises OSError.
    """
    if not cache.is_dir() or not environments.is_dir():
        return 0
    with (environments / ".lock").open("a") as lock:
        # The one that installations hold.
        fcntl.flock(lock, fcntl.LOCK_EX)
        freed = _remove_unused_bytecode(cache / "bytecode")
        pointers = _pointers(cache / "uv")
        packages = [path for path in [*pointers, *(cache / "conda").glob("[!.]*")] if path.is_dir()]
        alone = [path for path in packages if not any(status.st_nlink > 1 for status in _statuses(path))]
        freed += bytes_below(alone)
        # First, so that none ever points at what is not there: uv does not bear that.
        for package, pointing in pointers.items():
            for pointer in pointing if package in alone or not package.is_dir() else ():
                for path in (pointer, *pointer.parent.glob(f"{pointer.name}.*")):
                    path.unlink()
        discard(alone)
    return freed


def _pointers(cache: Path) -> dict[Path, list[Path]]:
    """Return what uv has unpacked, and the links by which it finds each; files of the same name are beside them."""
    pointers: dict[Path, list[Path]] = {}
    for pointer in cache.glob("wheels-v*/index/*/*/*"):
        if pointer.is_symlink():
            pointers.setdefault(Path(os.path.normpath(pointer.parent / pointer.readlink())), []).append(pointer)
    return pointers


def _remove_unused_bytecode(directory: Path) -> int:
    freed = 0
    for compiled in directory.glob("*/*.pyc"):
        status = compiled.lstat()
        if status.st_nlink == 1:
            freed += status.st_size
            compiled.unlink()
            # The source that it was made of, for comparing: it would keep a package in use.
            compiled.with_suffix(".py").unlink(missing_ok=True)
    return freed


def _statuses(directory: Path) -> Iterator[os.stat_result]:
    for parent, _, names in os.walk(directory):
        yield from (Path(parent, name).lstat() for name in names)


def _texts(proc: Path) -> Iterator[str]:
    for process in proc.glob("[0-9]*"):
        links: tuple[str, ...] = _LINKS
        for name in _TEXTS:
            try:
                content = (process / name).read_bytes()
            except OSError:  # it has ended, or is one of the kernel's
                continue
            if name == "cmdline" and _WORKER in content:
                links = _LINKS_OF_WORKERS
            yield content.decode("utf-8", "replace")
        for name in links:
            try:
                yield str((process / name).readlink())
            except OSError:
                continue
