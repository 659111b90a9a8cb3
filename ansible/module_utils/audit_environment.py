"""Hold installed environments and flows' code against the list that the controller worked out.

The rules are those of ``airgap/audit_rules.py``. Standard library only: runs on nodes with their own Python, and uses
nothing else of what is installed there.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.audit_bytecode import Compiled, CompileError, check_compiled, compiled_of, missing_compiled

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_BLOCK_BYTES = 1024 * 1024
_UV_CACHE_NAME = "uv_cache.json"
_CACHEDIR_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55\n"
# How rattler renames a file that another package has too.
_CLOBBERED = "__clobber-from-"
_LOCK = ".lock"
_MARKER = ".complete"
_ENVIRONMENT = ".environment"


@dataclass(frozen=True, order=True)
class Finding:
    """A file that is not what it should be."""

    path: str
    what: str
    """``changed``, ``missing``, ``unexpected``, or ``unaudited`` for what could not be compared."""
    reason: str = ""

    def __str__(self) -> str:
        """Return the finding as one line."""
        return f"{self.path}: {self.what}" + (f" ({self.reason})" if self.reason else "")


class Auditor:
    """Audits the directories of one machine; remembers files that several environments share."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._hashes: dict[tuple[int, int], str] = {}
        self.findings: list[Finding] = []
        self.files = 0
        """How many were compared."""
        self.environments = 0
        self._compiled: dict[tuple[str, str], set[Compiled]] = {}

    def audit_environments(self, root: Path) -> None:
        """Audit all environments below *root*, and name directories that nobody described."""
        entries = self._document["environments"]
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            entry = entries.get(str(path))
            if path.name == _LOCK and path.is_file():
                continue
            if path.is_symlink():
                self._audit_name(path)
            elif entry is None:
                self._find(path, "unexpected", "nothing that the controller keeps describes it")
            elif not (path / _MARKER).is_file():
                self._find(path, "unexpected", "its installation was not completed")
            elif "reason" in entry:
                self._find(path, "unaudited", entry["reason"])
            else:
                self.environments += 1
                self._audit_environment(path, entry)
        self._audit_compiled()

    def _audit_name(self, link: Path) -> None:
        """Audit a name that a flow's environment has beside its own: a link to an environment of the same flow."""
        target = str(link.readlink())
        flow = link.name.rpartition("-")[0]
        known = str(link.parent / target) in self._document["environments"] and target.rpartition("-")[0] == flow
        # What a deployment that was replaced used may stay; that of a deployed flow leads to one directory only.
        if not known or self._document["names"].get(link.name, target) != target:
            self._find(link, "changed", f"leads to {target}")

    def audit_links(self) -> None:
        """Audit the links to environments."""
        for link, targets in self._document["links"].items():
            path = Path(link)
            if not path.is_symlink():
                self._find(path, "changed" if path.exists() else "missing")
            elif str(path.readlink()) not in targets:
                self._find(path, "changed", f"leads to {path.readlink()}")

    def audit_flows(self, root: Path) -> None:
        """Audit the code of flows below *root*: ``<flow>/<version>/``."""
        for path in sorted(root.glob("*/*")):
            name = path.relative_to(root).as_posix()
            rules = self._document["flows"].get(name)
            if rules is not None:
                self._audit_tree(path, {key: [rule] for key, rule in rules.items()})
            # What was deployed before is kept for runs under way; its name tells what it must hold.
            elif not path.is_dir() or not _is_what_its_name_says(path):
                self._find(path, "unexpected", "no deployed flow has this code")

    def _audit_environment(self, path: Path, entry: Mapping[str, Any]) -> None:
        rules: dict[str, list[str]] = {name: [rule] for name, rule in entry["rules"].items()}
        for number in entry["packages"]:
            for name, rule in self._document["packages"][number].items():
                rules.setdefault(f"env/{name}", []).append(rule)
        before = len(self.findings)
        compiled = self._audit_tree(path, rules)
        python = f"/usr/bin/python{entry['python']}"
        if entry["interpreter"] == "conda":
            python = f"{path}/env/bin/python{entry['python']}"
            places = (f"{path}/env/bin/", f"{path}/env/lib/")
            found = [finding.path for finding in self.findings[before:] if "/site-packages/" not in finding.path]
            if any(name.startswith(places) for name in found):
                # Nothing of it may be run.
                self._find(path / "env", "unaudited", "compiled code, as the interpreter itself differs")
                return
        self._compiled.setdefault((python, entry["python"]), set()).update(compiled)

    def _audit_tree(self, root: Path, rules: Mapping[str, Sequence[str]]) -> list[Compiled]:
        """Compare the files below *root* with *rules*, and return compiled code that remains to be checked."""
        found = dict(_files(root))
        compiled: list[Compiled] = []
        ordinary: list[tuple[str, os.stat_result, Sequence[str]]] = []
        for name, status in found.items():
            wanted = rules.get(name) or rules.get(name.partition(_CLOBBERED)[0])
            candidate = compiled_of(root, name)
            if wanted:
                ordinary.append((name, status, wanted))
            elif candidate is not None and candidate.source_name in rules and stat.S_ISREG(status.st_mode):
                compiled.append(candidate)
                if not _only_roots(status):
                    self._find(root / name, "changed", "others than its owner may write it")
            else:
                self._find(root / name, "unexpected")
        self.files += len(found)
        changed: set[str] = set()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for (name, _, _), fault in zip(
                ordinary, pool.map(lambda file: self._fault(root, *file), ordinary), strict=True
            ):
                if fault is not None:
                    changed.add(name)
                    self._find(root / name, "changed", fault)
        for name, wanted in rules.items():
            if name not in found and not all(rule.startswith("? ") for rule in wanted):
                changed.add(name)
                self._find(root / name, "missing")
        # Where the source differs, that is said already, and there is nothing to compare its compiled code with.
        kept = [candidate for candidate in compiled if candidate.source_name not in changed]
        if kept:
            sources = [name for name in rules if name.endswith(".py") and name not in changed and name in found]
            kept += missing_compiled(root, sources, kept, rules)
        return kept

    def _audit_compiled(self) -> None:
        for (python, version), compiled in sorted(self._compiled.items()):
            # One file in several environments is one file.
            unique: dict[tuple[int, ...], list[Compiled]] = {}
            for candidate in sorted(compiled):
                unique.setdefault(candidate.identity(), []).append(candidate)
            try:
                faults = check_compiled(python, version, [same[0] for same in unique.values()])
            except CompileError as error:
                self._find(Path(python), "unaudited", str(error))
                continue
            for same, fault in zip(unique.values(), faults, strict=True):
                if fault is not None:
                    for candidate in same:
                        what = "missing" if fault == "missing" else "changed"
                        self._find(Path(candidate.path), what, "" if fault == "missing" else fault)

    def _fault(self, root: Path, name: str, status: os.stat_result, wanted: Iterable[str]) -> str | None:
        """Return what is wrong with a file, an empty text where there is no more to say, None if nothing is."""
        path = root / name
        if not stat.S_ISLNK(status.st_mode) and not _only_roots(status):
            return "others than its owner may write it"
        return None if any(self._fits(path, status, rule.removeprefix("? ")) for rule in wanted) else ""

    def _fits(self, path: Path, status: os.stat_result, rule: str) -> bool:
        if rule.startswith("-> "):
            return stat.S_ISLNK(status.st_mode) and str(path.readlink()) == rule[3:]
        if not stat.S_ISREG(status.st_mode):
            return False
        kind, _, digest = rule.rpartition(" ")
        if kind == "record":
            return _record_digest(path) == digest
        if kind == "conda-meta":
            return _conda_meta_digest(path) == digest
        if rule == "uv-cache":
            return _is_uv_cache(path)
        if rule == "cachedir-tag":
            return path.read_bytes().startswith(_CACHEDIR_SIGNATURE)
        return self._sha256(path, status) == rule

    def _sha256(self, path: Path, status: os.stat_result) -> str:
        key = (status.st_dev, status.st_ino)
        if key not in self._hashes:
            digest = hashlib.sha256()
            with path.open("rb") as stream:
                while block := stream.read(_BLOCK_BYTES):
                    digest.update(block)
            self._hashes[key] = digest.hexdigest()
        return self._hashes[key]

    def _find(self, path: Path, what: str, reason: str = "") -> None:
        self.findings.append(Finding(str(path), what, reason))


def _files(root: Path) -> Iterable[tuple[str, os.stat_result]]:
    """Yield all that is not a directory below *root*, by its path there."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(root / prefix) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(f"{prefix}{entry.name}/")
                else:
                    yield prefix + entry.name, status


def _only_roots(status: os.stat_result) -> bool:
    """Return whether nobody but the auditing user, who is root, may write a file, or gets rights by running it."""
    return status.st_uid == os.geteuid() and not status.st_mode & 0o6022


def _record_digest(path: Path) -> str:
    with path.open(encoding="utf-8", newline="") as stream:
        try:
            rows = list(csv.reader(stream))
        except (csv.Error, UnicodeDecodeError):
            return ""
    kept = sorted({tuple(row) for row in rows if row and not row[0].endswith(f".dist-info/{_UV_CACHE_NAME}")})
    return hashlib.sha256(json.dumps(kept, separators=(",", ":")).encode()).hexdigest()


def _conda_meta_digest(path: Path) -> str:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        kept = [record.get(key) for key in ("name", "version", "build", "sha256")]
        kept.append(sorted(record.get("files") or []))
    except (ValueError, AttributeError, TypeError):
        return ""
    return hashlib.sha256(json.dumps(kept, separators=(",", ":")).encode()).hexdigest()


def _is_uv_cache(path: Path) -> bool:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        times = note.pop("timestamp")
        return not any(note.values()) and all(isinstance(value, int) for value in times.values())
    except (ValueError, AttributeError, KeyError):
        return False


def _is_what_its_name_says(version: Path) -> bool:
    """Return whether a flow's code is what its directory's name, twelve digits of a digest, promises."""
    digest = _code_digest(version)
    marker = version / _MARKER
    text = marker.read_text(encoding="utf-8", errors="replace") if marker.is_file() else ""
    link = version / _ENVIRONMENT
    if not link.is_symlink():
        # An earlier release named it by the code alone.
        return digest.startswith(version.name)
    environment = link.readlink().name
    suffix = environment.rpartition("-")[2]
    return (
        hashlib.sha256(text.encode()).hexdigest().startswith(version.name)
        and f"code {digest}" in text.splitlines()
        and any(line.split()[-1].startswith(suffix) for line in text.splitlines()[1:])
        and str(link.readlink()) == f"../../../envs/{environment}"
    )


def _code_digest(directory: Path) -> str:
    """Return the digest over names and contents that a flow's code has (module_utils/flow_source.py)."""
    digest = hashlib.sha256()
    for name, _ in sorted(_files(directory)):
        path = directory / name
        if name not in (_MARKER, _ENVIRONMENT):
            content = path.read_bytes() if not path.is_symlink() else b""
            digest.update(f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode())
    return digest.hexdigest()
