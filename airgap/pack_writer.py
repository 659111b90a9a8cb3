"""Writes an environment as a pack that ``pixi-unpack`` and the flow playbook open."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airgap.environment import Environment, PackageFile
from airgap.errors import PackError
from airgap.hashing import sha256_of_file
from airgap.pack_format import (
    CHANNEL,
    ENVIRONMENT,
    FORMAT_VERSION,
    METADATA,
    RELIES_ON,
    RELIES_ON_VERSION,
    REPODATA,
    THIN_VERSION,
    WRITTEN_BY,
)


@dataclass(frozen=True)
class Thin:
    """What a thin pack leaves out."""

    base: str
    """SHA-256 of the have.json of the site that it is for."""
    paths: Collection[str]
    """Packages that the site has, and that do not travel, by path below the mirror."""


def write_pack(
    environment: Environment, mirror_lookup: Callable[[str], Path], out: Path, thin: Thin | None = None
) -> None:
    """Write *environment* to the file *out*; with *thin*, as a thin pack.

    *mirror_lookup* returns where a package is, by its path below the mirror; it is not asked for what does not travel.
    The same environment gives the same bytes. Raises PackError when a file is not the one described; *out* appears
    when it is complete.
    """
    left_out = [package for package in environment.files if thin is not None and package.path in thin.paths]
    version = THIN_VERSION if left_out else FORMAT_VERSION
    contents: dict[str, bytes | Path] = {
        METADATA: _json({"version": version, "pixi-pack-version": WRITTEN_BY, "platform": environment.platform}),
        ENVIRONMENT: (_remark(left_out) + render_environment(environment)).encode(),
    }
    if thin is not None and left_out:
        contents[RELIES_ON] = _json(
            {
                "format_version": RELIES_ON_VERSION,
                "base": thin.base,
                "packages": [
                    {"path": package.path, "sha256": package.sha256, "size": package.size}
                    for package in sorted(left_out, key=lambda package: package.path)
                ],
            }
        )
    records: dict[str, dict[str, Any]] = {"noarch": {}, environment.platform: {}}
    for package in environment.conda:
        _, subdir, file_name = package.path.split("/")
        records[subdir][file_name] = package.record
    for package in environment.files:
        if thin is None or package.path not in thin.paths:
            name = re.sub("^conda/", CHANNEL, package.path)
            contents[name] = _checked(package, mirror_lookup(package.path))
    for subdir, packages in records.items():
        # Whatever a package's format, pixi-pack lists it under packages.conda.
        index = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": packages, "repodata_version": 1}
        contents[f"{CHANNEL}{subdir}/{REPODATA}"] = _json(index)
    temporary = out.with_name(f".{out.name}.part")
    try:
        # GNU's format, as POSIX's older one has no room for some wheels' names.
        with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as archive:
            for name, content in sorted(contents.items()):
                _add(archive, name, content)
        temporary.replace(out)
    except OSError as error:
        raise PackError(f"{out} cannot be written ({error.strerror}): choose another place with --output.") from error
    finally:
        temporary.unlink(missing_ok=True)


def render_environment(environment: Environment) -> str:
    """Return ``environment.yml``, for people who install a pack with conda or micromamba."""
    lines = ["channels:", "- ./channel", "- nodefaults", "dependencies:"]
    for package in sorted(environment.conda, key=lambda package: package.name):
        build = (package.record or {}).get("build", "")
        lines.append(f"- {package.name}={package.version}={build}")
    if environment.wheels:
        lines += ["- pip:", "  - --no-index", "  - --find-links ./pypi"]
        lines += [f"  - {wheel.name}=={wheel.version}" for wheel in _by_name(environment.wheels)]
    return "\n".join(lines) + "\n"


def _remark(left_out: Collection[PackageFile]) -> str:
    """Return a comment that tells people what a thin pack is; nothing for other packs."""
    if not left_out:
        return ""
    return (
        f"# A thin pack: it relies on {len(left_out)} packages that the site has ({RELIES_ON}). pixi-unpack cannot\n"
        "# open it, nor can conda or micromamba: deploy it with pag's flow playbook, on that site.\n"
    )


def _by_name(packages: Iterable[PackageFile]) -> list[PackageFile]:
    return sorted(packages, key=lambda package: package.name)


def _checked(package: PackageFile, path: Path) -> Path:
    if sha256_of_file(path) != package.sha256:
        raise PackError(f"{path} is not the {package.path} that the lock names: remove it and build again.")
    return path


def _add(archive: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    member = tarfile.TarInfo(name)
    member.mode = 0o644
    if isinstance(content, bytes):
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    else:
        member.size = content.stat().st_size
        with content.open("rb") as stream:
            archive.addfile(member, stream)


def _json(document: Any) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True).encode()
