"""Whether a lock satisfies the manifest that it was made from: somebody may have changed the one and not the other.

Looks at what the manifest asks for itself: what packages ask of each other is looked at where locks are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from airgap.errors import LockError
from airgap.locks import LockedPackages, read_lock
from airgap.sources.requirements_file import read_requirements
from airgap.sources.wheels import marker_environment
from airgap.targets import Target
from airgap.toml import read_toml

PIXI_MANIFEST = "pixi.toml"
PYPROJECT = "pyproject.toml"
REQUIREMENTS_INPUT = "requirements.in"

_ENVIRONMENT = "default"
_CONDA_TABLES = ("dependencies", "host-dependencies", "build-dependencies")
_PYPI_TABLE = "pypi-dependencies"
# What of a conda dependency's table can be compared with a package's record.
_COMPARED_KEYS = ("version", "build", "build-number", "subdir", "sha256", "md5")
# What stands before a file's name in pip's requirements files.
_INCLUDE = re.compile(r"(?:-r|--requirement)[ =]?\s*(?P<name>\S+)$")
_CONSTRAINT = re.compile(r"(?:-c|--constraint)[ =]?\s*(?P<name>\S+)$")
_MOST_SHOWN = 10


def check_pixi_lock(lock: Path, target: Target) -> None:
    """Raise LockError unless ``pixi.lock`` satisfies the ``pixi.toml`` or ``pyproject.toml`` beside it for *target*.

    Compares the default environment's packages, conda's and PyPI's, and the platforms. Without a manifest there is
    nothing to satisfy. Channels may differ: a lock may have been made from a mirror.
    """
    found = _read_manifest(lock.parent)
    if found is None:
        return
    path, manifest = found
    _check_platform(path, manifest, target)
    locked = read_lock(lock, _ENVIRONMENT, target.conda_platform)
    faults: list[str] = []
    for feature in _features(manifest):
        faults += _unmet_conda(path, _dependencies(feature, _CONDA_TABLES, target.conda_platform), locked)
        faults += _unmet_pypi(path, _dependencies(feature, (_PYPI_TABLE,), target.conda_platform), locked)
    _refuse(lock, path, faults, "run pixi lock")


def check_requirements(lock: Path, target: Target) -> None:
    """Raise LockError unless ``requirements.txt`` satisfies the ``requirements.in`` beside it on *target*.

    Included files count; constraints bind what is locked. Without that file there is nothing to satisfy.
    """
    manifest = lock.with_name(REQUIREMENTS_INPUT)
    if not manifest.is_file():
        return
    markers = marker_environment(target, target.release.python)
    versions = {entry.name: entry.version for entry in read_requirements(lock, markers)}
    faults = []
    for requirement, required in _requirements(manifest, set()):
        if requirement.marker is not None and not requirement.marker.evaluate(dict(markers)):
            continue
        version = versions.get(str(canonicalize_name(requirement.name)))
        if version is None and required:
            faults.append(f"{requirement.name} is not locked")
        elif version is not None and not requirement.specifier.contains(version, prereleases=True):
            faults.append(f"{requirement.name} {version} is locked, and {requirement.specifier} is asked for")
    again = "lock it again (uv pip compile --universal --generate-hashes)"
    _refuse(lock, manifest, faults, again)


def _refuse(lock: Path, manifest: Path, faults: Sequence[str], advice: str) -> None:
    if faults:
        shown = [*faults[:_MOST_SHOWN], *([f"and {len(faults) - _MOST_SHOWN} more"] if faults[_MOST_SHOWN:] else [])]
        raise LockError(f"{lock} does not satisfy {manifest.name} ({'; '.join(shown)}): {advice}.")


def _read_manifest(directory: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return pixi's manifest in *directory* and its path, or None when there is none."""
    for name in (PIXI_MANIFEST, PYPROJECT):
        path = directory / name
        if not path.is_file():
            continue
        try:
            document = read_toml(path)
        except (OSError, ValueError) as error:
            raise LockError(f"{path} cannot be read ({error}): mend it, and run pixi lock.") from error
        if name == PIXI_MANIFEST:
            return path, document
        manifest = document.get("tool", {}).get("pixi")
        if manifest is not None:
            return path, _with_project(path, manifest, document.get("project", {}))
    return None


def _with_project(path: Path, manifest: dict[str, Any], project: Mapping[str, Any]) -> dict[str, Any]:
    """Return pixi's part of a ``pyproject.toml``, with what the project itself depends on, as pixi reads it."""
    dependencies: dict[str, Any] = {}
    for text in project.get("dependencies", []):
        requirement = _parsed(path, text)
        if requirement.marker is None:
            dependencies[requirement.name] = str(requirement.specifier) or "*"
    return {**manifest, _PYPI_TABLE: {**dependencies, **manifest.get(_PYPI_TABLE, {})}}


def _check_platform(path: Path, manifest: Mapping[str, Any], target: Target) -> None:
    workspace = manifest.get("workspace") or manifest.get("project") or {}
    # A platform may be a table as well, with what is assumed of its system.
    platforms = [
        entry if isinstance(entry, str) else str(entry.get("platform")) for entry in workspace.get("platforms", [])
    ]
    if target.conda_platform not in platforms:
        raise LockError(
            f"{path} is for {', '.join(platforms) or 'no platform'}, and {target.name} is {target.conda_platform}: add "
            f"it (pixi workspace platform add {target.conda_platform}), or pack for another --target."
        )


def _features(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the features that *manifest*'s default environment is made of; each is to be satisfied."""
    environment = manifest.get("environments", {}).get(_ENVIRONMENT, {})
    names = environment if isinstance(environment, list) else environment.get("features", [])
    features = [manifest["feature"][name] for name in names if name in manifest.get("feature", {})]
    if isinstance(environment, list) or not environment.get("no-default-feature", False):
        features.append(manifest)
    return features


def _dependencies(feature: Mapping[str, Any], names: Sequence[str], platform: str) -> dict[str, Any]:
    """Return what *feature* asks for in its tables *names*, by package; what is for the platform alone overrides."""
    dependencies: dict[str, Any] = {}
    for table in (feature, *(feature.get("target", {}).get(selector, {}) for selector in ("unix", "linux", platform))):
        for name in reversed(names):  # what runs overrides what builds
            dependencies |= table.get(name, {})
    return dependencies


def _unmet_conda(path: Path, dependencies: Mapping[str, Any], locked: LockedPackages) -> Iterator[str]:
    records = {str(package.record["name"]): package.record for package in locked.conda}
    for name, spec in sorted(dependencies.items()):
        record = records.get(name.lower())
        if record is None:
            yield f"{name} is not locked"
        elif not _fits(path, name, spec, record):
            shown = spec if isinstance(spec, str) else " ".join(f"{key}={value}" for key, value in spec.items())
            yield f"{name} {record['version']} is locked, and {shown} is asked for"


def _fits(path: Path, name: str, spec: Any, record: Mapping[str, Any]) -> bool:
    from rattler import BuildString, MatchSpec, PackageRecord
    from rattler.exceptions import InvalidMatchSpecError

    if isinstance(spec, str):
        text = f"{name} {spec}"
    else:
        criteria = ",".join(f"{key.replace('-', '_')}='{spec[key]}'" for key in _COMPARED_KEYS if key in spec)
        text = f"{name}[{criteria}]" if criteria else name
    try:
        match = MatchSpec(text)
    except InvalidMatchSpecError as error:
        raise LockError(f"{path} asks for {text!r}, which cannot be read ({error}): mend it.") from error
    sha256, md5 = (bytes.fromhex(record.get(key) or "") or None for key in ("sha256", "md5"))
    candidate = PackageRecord(
        str(record["name"]),
        str(record["version"]),
        BuildString(str(record.get("build", ""))),
        int(record.get("build_number", 0)),
        str(record["subdir"]),
        sha256=sha256,
        md5=md5,
    )
    return bool(match.matches(candidate))


def _unmet_pypi(path: Path, dependencies: Mapping[str, Any], locked: LockedPackages) -> Iterator[str]:
    # A conda package of the name counts as well: pixi takes no wheel where there is one.
    versions = {str(canonicalize_name(str(package.record["name"]))): package.record for package in locked.conda}
    known = {name: str(record["version"]) for name, record in versions.items()}
    known |= {wheel.name: wheel.version for wheel in locked.wheels}
    for name, asked in sorted(dependencies.items()):
        version = known.get(str(canonicalize_name(name)))
        spec = asked if isinstance(asked, str) else asked.get("version", "*")
        if version is None:
            yield f"{name} is not locked"
        elif spec not in ("*", "") and not _specifiers(path, name, spec).contains(version, prereleases=True):
            yield f"{name} {version} is locked, and {spec} is asked for"


def _specifiers(path: Path, name: str, text: str) -> SpecifierSet:
    try:
        return SpecifierSet(text)
    except InvalidSpecifier as error:
        raise LockError(f"{path} asks for {name} {text!r}, which cannot be read: mend it.") from error


def _requirements(path: Path, seen: set[Path]) -> Iterator[tuple[Requirement, bool]]:
    """Yield what the file at *path* asks for, and whether it must be there (a constraint need not)."""
    seen.add(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LockError(f"{path} cannot be read ({error}): mend it, and lock again.") from error
    for line in re.sub(r"\\\n", " ", text).splitlines():
        stripped = re.sub(r"(^|\s)#.*$", "", line).strip()
        included, constraint = _INCLUDE.match(stripped), _CONSTRAINT.match(stripped)
        match = included or constraint
        if match:
            other = path.parent / match["name"]
            if other not in seen:
                yield from ((entry, must and bool(included)) for entry, must in _requirements(other, seen))
        elif stripped and not stripped.startswith("-"):
            # Options of a single requirement say how it is built, not which it is.
            yield _parsed(path, re.split(r"\s+--", stripped)[0]), True


def _parsed(path: Path, text: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise LockError(f"{path} asks for {text!r}, which is no requirement: mend it, and lock again.") from error
