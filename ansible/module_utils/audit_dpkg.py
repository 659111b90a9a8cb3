"""Hold the files of installed Debian packages against their MD5 sums.

For packages that came with a bundle, the sums are those that the controller read from the package; for all others they
are dpkg's own (``/var/lib/dpkg/info/*.md5sums``), as with ``dpkg --verify``. Standard library only.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ansible.module_utils.audit_environment import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BLOCK_BYTES = 1024 * 1024
_COMPLETE = {"installed", "triggers-awaited", "triggers-pending"}
_ABSENT = {"not-installed", "config-files"}


@dataclass
class DebianAudit:
    """What was found."""

    findings: list[Finding] = field(default_factory=list)
    configuration: list[str] = field(default_factory=list)
    """Configuration files that are not as the package brought them: administrators change them."""
    packages: int = 0
    carried: int = 0
    """Of them, those that were held against a package of the mirror."""
    files: int = 0


@dataclass(frozen=True)
class _Package:
    name: str
    version: str
    architecture: str
    state: str
    conffiles: dict[str, str]


def audit_packages(carried: Mapping[str, str], root: Path = Path("/")) -> DebianAudit:
    """Audit the packages that dpkg has installed below *root*.

    *carried* has the ``md5sums`` of the mirror's packages, by ``<name> <version> <architecture>``.
    """
    audit = DebianAudit()
    database = root / "var/lib/dpkg"
    diversions = _diversions(database / "diversions")
    excluded = _Excluded(root / "etc/dpkg/dpkg.cfg.d")
    jobs: list[tuple[Path, str]] = []
    for package in _installed(database / "status"):
        if package.state not in _COMPLETE:
            audit.findings.append(Finding(f"package {package.name}", "unaudited", f"dpkg says {package.state}"))
            continue
        audit.packages += 1
        local = _local_sums(database, package)
        text = carried.get(f"{package.name} {package.version} {package.architecture}")
        if text is not None:
            audit.carried += 1
            if local is None or dict(_parse(local[1])) != dict(_parse(text)):
                path = local[0] if local else database / f"info/{package.name}.md5sums"
                audit.findings.append(Finding(str(path), "changed" if local else "missing"))
        elif local is not None:
            text = local[1]
        for name, md5 in _parse(text or ""):
            owner, other = diversions.get(f"/{name}", (package.name, ""))
            if f"/{name}" not in package.conffiles:
                jobs.append((root / (name if owner == package.name else other.lstrip("/")), md5))
        audit.configuration += [
            path
            for path, md5 in package.conffiles.items()
            if (root / path.lstrip("/")).is_file() and _md5(root / path.lstrip("/")) != md5
        ]
    audit.files = len(jobs)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for (path, md5), found in zip(jobs, pool.map(lambda job: _md5(job[0]), jobs), strict=True):
            if found is None and not excluded.covers(path, root):
                audit.findings.append(Finding(str(path), "missing"))
            elif found not in (None, md5):
                audit.findings.append(Finding(str(path), "changed"))
    return audit


def _installed(status: Path) -> Iterator[_Package]:
    for stanza in re.split(r"\n{2,}", status.read_text(encoding="utf-8", errors="replace").strip()):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.+)$", stanza, re.MULTILINE))
        state = fields.get("Status", "").rpartition(" ")[2]
        if not fields or state in _ABSENT:
            continue
        block = re.search(r"^Conffiles:\n((?: .*\n?)+)", stanza, re.MULTILINE)
        conffiles = {}
        for line in block[1].splitlines() if block else ():
            path, md5, *flags = line.split()
            if not {"obsolete", "remove-on-upgrade"} & set(flags):
                conffiles[path] = md5
        yield _Package(fields["Package"], fields["Version"], fields["Architecture"], state, conffiles)


def _local_sums(database: Path, package: _Package) -> tuple[Path, str] | None:
    """Return dpkg's list for *package* and its path; None for a package without one."""
    for name in (f"{package.name}:{package.architecture}", package.name):
        path = database / f"info/{name}.md5sums"
        if path.is_file():
            return path, path.read_text(encoding="utf-8", errors="surrogateescape")
    return None


def _parse(text: str) -> Iterator[tuple[str, str]]:
    """Yield path (without its first slash) and MD5 of each line."""
    for line in text.splitlines():
        md5, _, name = line.partition("  ")
        if name:
            yield name.removeprefix("./"), md5


def _diversions(path: Path) -> dict[str, tuple[str, str]]:
    """Return the package that keeps each diverted path, and where the others' file goes (dpkg-divert)."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {lines[n]: (lines[n + 2], lines[n + 1]) for n in range(0, len(lines) - 2, 3)}


class _Excluded:
    """Paths that dpkg was told not to install (``path-exclude``), for example documentation."""

    def __init__(self, directory: Path) -> None:
        self._patterns: list[tuple[bool, str]] = []
        for file in sorted(directory.glob("*")):
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                match = re.match(r"path-(exclude|include)[= ]\s*(\S+)", line)
                if match:
                    self._patterns.append((match[1] == "exclude", match[2].strip("\"'")))

    def covers(self, path: Path, root: Path) -> bool:
        """Return whether *path* is left out: the last pattern that fits decides."""
        name = f"/{path.relative_to(root)}"
        return next((out for out, pattern in reversed(self._patterns) if fnmatch.fnmatchcase(name, pattern)), False)


def _md5(path: Path) -> str | None:
    """Return the MD5 of a file; None when there is none, and another text for what is no file."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return digest.hexdigest()
