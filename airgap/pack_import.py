"""Brings a pack's packages into a mirror, and describes its environment for the nodes.

Nodes get a pack's packages like a bundle's: through the mirror and an environment's description. Standard library only.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from airgap.environment import Environment, PackageFile
from airgap.errors import PackError
from airgap.hashing import sha256_of_file
from airgap.manifest import Manifest
from airgap.mirror_index import refresh
from airgap.pack_format import WHEELS
from airgap.pack_reader import PackContents, opened, read_pack
from airgap.pack_stream import open_pack
from airgap.system_python import BUILD as SYSTEM_BUILD
from airgap.system_python import system_python_package
from airgap.targets import Target
from airgap.wheel_names import WheelName

_BLOCK_BYTES = 1024 * 1024
_SHA256 = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_LOCKS = ("pixi.lock", "requirements.txt")


@dataclass(frozen=True)
class ImportedPack:
    """What importing a pack did, or would do."""

    description: Path
    environment: Environment
    created: tuple[Path, ...]
    """Files that came into being, or would: what a caller removes who finds that the environment is of no use."""

    @property
    def changed(self) -> bool:
        """Whether anything was, or would be, written."""
        return bool(self.created)


def import_pack(
    pack: Path,
    flow_directory: Path,
    mirror: Path,
    environments: Path,
    name: str,
    target: Target,
    *,
    manifest: Path | None = None,
    check: bool = False,
) -> ImportedPack:
    """Check *pack*, put its packages into *mirror*, and describe it in *environments* as *name* for *target*.

    Every wheel must be in the locks in *flow_directory* or in the bundle's *manifest*, by its SHA-256; conda packages
    too, where there is a ``pixi.lock``. With *check*, nothing is written. Raises PackError when the pack cannot be
    used; then nothing was changed.
    """
    contents = read_pack(pack)
    environment = _environment(contents, name, target)
    known = _known_files(manifest)
    _check_locked(contents, flow_directory, known, target)
    _check_known_names(contents, known)
    missing = [package for package in contents.files if not _is_there(package, mirror)]
    _check_relied_on(contents, missing)
    # By content, so that the description of what is deployed stays as long as that does.
    description = environments / f"{environment.directory_name}.{target.name}.json"
    text = environment.to_json()
    described = description.is_file() and description.read_text(encoding="utf-8") == text
    if not check:
        _extract(contents, missing, mirror, environment)
        # Last: what is described has its packages, and they are in the indexes.
        if not described:
            with _written(description) as stream:
                stream.write(text.encode())
    created = [mirror / package.path for package in missing] + ([] if described else [description])
    return ImportedPack(description, environment, tuple(created))


def _environment(contents: PackContents, name: str, target: Target) -> Environment:
    path = contents.path
    if contents.platform != target.conda_platform:
        raise PackError(
            f"{path} is for {contents.platform}, and the nodes are {target.conda_platform} ({target.name}): pack it "
            f"with --platform {target.conda_platform}."
        )
    python = next((package for package in contents.conda if package.name == "python"), None)
    if python is None:
        raise PackError(f"{path} has no conda package python: add python to its pixi.toml.")
    if contents.package("prefect") is None:
        raise PackError(
            f"{path} has no prefect, without which a worker cannot run its flow: add prefect to its packages."
        )
    minor = ".".join(python.version.split(".")[:2])
    system = (python.record or {}).get("build") == SYSTEM_BUILD
    if system and minor != target.release.python:
        raise PackError(
            f"{path} was packed for nodes with Python {minor}, and {target.name} has {target.release.python}: pack "
            f"it with --target {target.release.name}."
        )
    for wheel in contents.wheels:
        file_name = wheel.path.removeprefix(WHEELS)
        if not WheelName.parse(file_name).runs_on(minor, target.architecture, target.release.glibc):
            raise PackError(
                f"{path} holds {file_name}, which does not run on {target.name} with Python {minor}: pack it for that "
                "target."
            )
    return Environment(
        name=name,
        target=target.name,
        interpreter="system" if system else "conda",
        python=minor,
        platform=contents.platform,
        conda=contents.conda,
        wheels=contents.wheels,
    )


def _known_files(manifest: Path | None) -> dict[str, set[str]]:
    """Return the SHA-256 that the bundle knows, by file name."""
    known: dict[str, set[str]] = {}
    if manifest is not None:
        for file in Manifest.from_file(manifest).all_files:
            if file.kind in ("conda", "wheel"):
                known.setdefault(file.path.rpartition("/")[2], set()).add(file.sha256)
    return known


def _check_locked(contents: PackContents, flow_directory: Path, known: Mapping[str, set[str]], target: Target) -> None:
    """Raise PackError unless the packages are those that the flow's locks, or the bundle, name."""
    locks = [flow_directory / name for name in _LOCKS if (flow_directory / name).is_file()]
    accepted = {sha256 for lock in locks for sha256 in _SHA256.findall(lock.read_text(encoding="utf-8"))}
    accepted |= {sha256 for hashes in known.values() for sha256 in hashes}
    accepted.add(system_python_package(target)[1].sha256)
    doubtful: Iterable[PackageFile] = contents.wheels
    if flow_directory / "pixi.lock" in locks or (contents.wheels and locks):
        doubtful = contents.files
    foreign = sorted(package.path.rpartition("/")[2] for package in doubtful if package.sha256 not in accepted)
    if foreign:
        names = " and ".join(lock.name for lock in locks) or f"any lock ({flow_directory} has no {' or '.join(_LOCKS)})"
        raise PackError(
            f"{contents.path} holds packages whose hash is not in {names} ({', '.join(foreign)}): pack the environment "
            "again from the lock that is in the flow's directory."
        )


def _check_known_names(contents: PackContents, known: Mapping[str, set[str]]) -> None:
    for package in contents.files:
        file_name = package.path.rpartition("/")[2]
        if file_name in known and package.sha256 not in known[file_name]:
            raise PackError(
                f"{contents.path} holds another {file_name} than the bundle: pack the environment again from the "
                "channel or index that the bundle was built from."
            )


def _is_there(package: PackageFile, mirror: Path) -> bool:
    path = mirror / package.path
    if not path.exists():
        return False
    if sha256_of_file(path) != package.sha256:
        raise PackError(
            f"The mirror has another {package.path} ({path}) than the pack: remove the wrong one, and what uses it."
        )
    return True


def _check_relied_on(contents: PackContents, missing: Sequence[PackageFile]) -> None:
    """Raise PackError when a thin pack relies on packages that are *missing* in the mirror."""
    absent = sorted((package.path, package.size) for package in missing if package.path not in contents.members)
    if absent:
        size = sum(size for _, size in absent)
        listed = "\n".join(f"  {path} ({size} bytes)" for path, size in absent)
        raise PackError(
            f"{contents.path} is thin and relies on {len(absent)} packages ({size} bytes) that the controller's mirror "
            f"does not have: carry over a bundle that has them, or pack the environment without --since.\n{listed}"
        )


def forget_pack(created: Sequence[Path], mirror: Path) -> None:
    """Remove what an import *created*; the indexes of *mirror* lose it first."""
    refresh(mirror, without=created)
    for path in created:
        path.unlink(missing_ok=True)


def _extract(contents: PackContents, packages: Sequence[PackageFile], mirror: Path, environment: Environment) -> None:
    """Write *packages* into *mirror*, each under its name once it is complete, and into its indexes; all or none."""
    done: list[Path] = []
    try:
        with open_pack(contents.path) as tar, tarfile.open(fileobj=tar, mode="r:") as archive:
            for package in packages:
                source = opened(archive, contents.members[package.path])
                with _written(mirror / package.path) as stream:
                    digest = hashlib.sha256()
                    while block := source.read(_BLOCK_BYTES):
                        digest.update(block)
                        stream.write(block)
                    if digest.hexdigest() != package.sha256:
                        raise PackError(f"{contents.path} was changed while it was read: start again.")
                done.append(mirror / package.path)
        refresh(mirror, environments=[environment])
    except BaseException as error:
        for path in done:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise PackError(
                f"The packages cannot be put into {mirror} ({error.strerror}): nothing was changed."
            ) from error
        raise


@contextmanager
def _written(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that gets the name *path*, readable for everybody, when it is complete; otherwise it is removed."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as stream:
            yield stream
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
