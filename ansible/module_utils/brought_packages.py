"""Remove the Debian packages that came from the bundle's mirror and that nobody else uses.

Only packages of the record (:mod:`mirror_apt`) are ever removed: what was on the machine before is not in it. Which of
them are needed by others, apt itself decides, with a private copy of its notes in which they are marked as installed
automatically.
"""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ansible.module_utils.mirror_apt import (
    RECORD,
    MirrorAptError,
    brought_packages,
    finish_interrupted,
    run,
    write_brought,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Remv NAME [VERSION] ..., or Purg; the name has the architecture where that is not the machine's own.
_REMOVED = re.compile(r"(?:Remv|Purg) (?P<name>\S+) \[")
# A package that others only recommend is not one that they need.
_DEPENDS_ONLY = ("APT::AutoRemove::RecommendsImportant=false", "APT::AutoRemove::SuggestsImportant=false")
# No source is read, and no index of packages is left behind.
_NO_SOURCES = (
    "Dir::Etc::SourceList=/dev/null",
    "Dir::Etc::SourceParts=/dev/null",
    "Dir::Cache::PkgCache=",
    "Dir::Cache::SrcPkgCache=",
)
_LOCK_TIMEOUT = 300


@dataclass(frozen=True)
class Removal:
    """What becomes of the packages that came from the mirror."""

    removed: tuple[str, ...]
    """As ``name:architecture``; those of which only configuration files are left, too."""
    kept: dict[str, str]
    """Those that stay, and why."""


def plan_removal(keep: Sequence[str] = (), record: Path = RECORD) -> Removal:
    """Return what would be removed if the packages *keep* (names, and what these need) stayed; changes nothing."""
    states = _states()
    brought = [package for package in brought_packages(record) if package in states]
    here = [package for package in brought if states[package] == "i"]
    unused = _unused([package for package in here if package.partition(":")[0] not in keep])
    # Of a removal that was cut short, configuration files may be left.
    removed = [package for package in brought if package in unused or states[package] == "c"]
    kept = {package: _reason(package, brought, keep) for package in here if package not in unused}
    return Removal(tuple(removed), kept)


def remove(keep: Sequence[str] = (), record: Path = RECORD) -> Removal:
    """Remove what nobody needs, with its configuration files, and return what was done.

    Raises MirrorAptError, before anything is changed, when apt would remove anything else with it.
    """
    finish_interrupted()
    plan = plan_removal(keep, record)
    if plan.removed:
        more = _simulate(["purge", *plan.removed]) - set(plan.removed)
        if more:
            raise MirrorAptError(f"apt would remove {', '.join(sorted(more))} as well: look at these packages.")
        run(
            [
                "apt-get",
                *_options(_NO_SOURCES),
                f"--option=DPkg::Lock::Timeout={_LOCK_TIMEOUT}",
                "purge",
                "--yes",
                "--quiet=2",
                *plan.removed,
            ]
        )
    # Whoever installs one of them from now on is somebody else.
    write_brought(list(plan.kept), record)
    return plan


def _states() -> dict[str, str]:
    """Return ``i`` for packages that are installed in whole or in part, ``c`` for left configuration, by name."""
    lines = run(["dpkg-query", "--show", "--showformat=${db:Status-Abbrev}\t${Package}:${Architecture}\n"])
    columns = [line.split("\t") for line in lines.splitlines()]
    return {name: "c" if status[1] == "c" else "i" for status, name in columns if status[1] != "n"}


def _unused(candidates: Sequence[str]) -> set[str]:
    """Return those of *candidates* that no other installed package depends on."""
    if not candidates:
        return set()
    with _without_exceptions(), _marked_automatic(candidates) as options:
        return _simulate(["autoremove", "--purge"], options) & set(candidates)


@contextmanager
def _without_exceptions() -> Iterator[None]:
    """Keep apt from reading the machine's own settings, where PostgreSQL's packages are exempt from being unneeded."""
    before = os.environ.get("APT_CONFIG")
    with tempfile.NamedTemporaryFile("w", prefix="pag-apt-", encoding="ascii") as stream:
        stream.write('Dir::Etc::Main "/dev/null";\nDir::Etc::Parts "/dev/null";\n')
        stream.flush()
        os.environ["APT_CONFIG"] = stream.name
        try:
            yield
        finally:
            del os.environ["APT_CONFIG"]
            if before is not None:
                os.environ["APT_CONFIG"] = before


@contextmanager
def _marked_automatic(packages: Sequence[str]) -> Iterator[list[str]]:
    """Yield options with which apt takes *packages*, and no others, for installed automatically."""
    native = run(["dpkg", "--print-architecture"]).strip()
    stanzas = [
        # apt notes a package for all architectures under the machine's own.
        f"Package: {name}\nArchitecture: {native if architecture == 'all' else architecture}\nAuto-Installed: 1\n"
        for name, _, architecture in (package.partition(":") for package in packages)
    ]
    with tempfile.NamedTemporaryFile("w", prefix="pag-apt-", encoding="ascii") as stream:
        stream.write("\n".join(stanzas))
        stream.flush()
        yield _options((f"Dir::State::extended_states={stream.name}", *_DEPENDS_ONLY))


def _simulate(command: Sequence[str], options: Sequence[str] = ()) -> set[str]:
    """Return the packages that apt would remove, as ``name:architecture``."""
    printed = run(["apt-get", *_options(_NO_SOURCES), *options, "--simulate", *command])
    named = {match["name"] for line in printed.splitlines() if (match := _REMOVED.match(line))}
    native = run(["dpkg", "--print-architecture"]).strip()
    return {
        package
        for package in _states()
        for name, _, architecture in (package.partition(":"),)
        if package in named or (name in named and architecture in ("all", native))
    }


def _reason(package: str, brought: Sequence[str], keep: Sequence[str]) -> str:
    needing = sorted(_simulate(["remove", package]) - set(brought))
    kept = sorted(set(keep) & {name.partition(":")[0] for name in _simulate(["remove", package])})
    if needing:
        return "needed by " + ", ".join(name.partition(":")[0] for name in needing)
    if kept:
        return "kept" if package.partition(":")[0] in kept else "needed by " + ", ".join(kept)
    return "needed by a package that stays"


def _options(settings: Sequence[str]) -> list[str]:
    return [f"--option={setting}" for setting in settings]
