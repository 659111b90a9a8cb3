"""Made-up bundles, unpacked, for tests of what installs them."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Collection, Mapping
from pathlib import Path

from airgap.environment import Environment, PackageFile
from airgap.index_formats import render_packages, render_project, render_projects, render_release, render_repodata
from airgap.manifest import Kind, Manifest, ManifestEnvironment, ManifestFile, ManifestTarget
from airgap.targets import parse_target

TARGET = parse_target("debian-12", platform.machine())
_KINDS: dict[str, Kind] = {".whl": "wheel", ".conda": "conda", ".deb": "deb"}
_FOLDERS: dict[str, Kind] = {"ansible": "ansible", "flows": "flow", "mirror": "index", "environments": "environment"}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wheel(name: str, content: bytes | None = None) -> dict[str, bytes]:
    return {f"mirror/pypi/{name}-1-py3-none-any.whl": content or f"the wheel {name}".encode()}


def conda(name: str, content: bytes | None = None) -> dict[str, bytes]:
    return {f"mirror/conda/noarch/{name}-1-0.conda": content or f"the conda package {name}".encode()}


def deb(name: str) -> dict[str, bytes]:
    return {f"mirror/apt/{TARGET.name}/{name}_1_all.deb": f"the Debian package {name}".encode()}


def environment(name: str, packages: Mapping[str, bytes]) -> Environment:
    """Return an environment of wheels and conda packages."""
    files = [
        PackageFile(
            path.removeprefix("mirror/"),
            digest(content),
            len(content),
            Path(path).name.partition("-")[0],
            "1",
            _record(path, content) if path.endswith(".conda") else None,
        )
        for path, content in packages.items()
    ]
    return Environment(
        name,
        TARGET.name,
        "system",
        TARGET.release.python,
        TARGET.conda_platform,
        conda=tuple(file for file in files if file.record is not None),
        wheels=tuple(file for file in files if file.record is None),
    )


def write_bundle(
    directory: Path,
    packages: Mapping[str, bytes],
    others: Mapping[str, bytes] | None = None,
    *,
    version: str = "1",
    left_out: Collection[str] = (),
    targets: tuple[str, ...] = ("debian-12",),
) -> Path:
    """Write a bundle with an environment ``prefect`` of the wheels among *packages*; *left_out* does not travel."""
    described = environment("prefect", {path: packages[path] for path in packages if not path.endswith(".deb")})
    path = f"environments/prefect.{TARGET.name}.json"
    contents = {
        **packages,
        **_indexes(packages),
        path: described.to_json().encode(),
        "airgap/__init__.py": b"",
        "ansible/main.yml": b"---\n",
        **(others or {}),
    }
    listed = [
        ManifestFile(
            name,
            digest(content),
            len(content),
            _KINDS.get(Path(name).suffix) or _FOLDERS.get(name.partition("/")[0], "software"),
            executable=name.endswith(".sh"),
        )
        for name, content in contents.items()
    ]
    parsed = [parse_target(name, platform.machine()) for name in targets]
    manifest = Manifest(
        bundle_version=version,
        created_by="test",
        interpreter="system",
        interpreter_reason="because.",
        targets=tuple(
            ManifestTarget(t.name, t.release.name, t.release.codename, t.architecture, t.release.python) for t in parsed
        ),
        environments=(ManifestEnvironment("prefect", TARGET.name, "system", described.digest, path, None, "3.8.8"),),
        files=tuple(file for file in listed if file.path not in left_out),
        base="0" * 64 if left_out else None,
        relies_on=tuple(file for file in listed if file.path in left_out),
    )
    sums = {file.path: file.sha256 for file in manifest.files} | {"manifest.json": digest(manifest.to_json().encode())}
    written = {name: content for name, content in contents.items() if name not in left_out}
    written["manifest.json"] = manifest.to_json().encode()
    written["SHA256SUMS"] = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(sums.items())).encode()
    for name, content in written.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)  # as tar does
        file.write_bytes(content)
    return directory


def deploy(root: Path, name: str, packages: Mapping[str, bytes]) -> None:
    """Record a deployed flow as the playbooks do, and put its packages into the mirror as the import of a pack does."""
    described = environment(name, packages)
    directory = root / "flows" / name / "daily"
    directory.mkdir(parents=True)
    for path, content in packages.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    description = f"{described.directory_name}.{TARGET.name}.json"
    for place in (directory, root / "environments"):
        place.mkdir(exist_ok=True)
        (place / description).write_text(described.to_json())
    record = {
        "flow": name,
        "deployment": "daily",
        "work_pool": "cpu-pool",
        "environments": {TARGET.name: {"description": description, "directory": described.directory_name}},
    }
    (directory / "record.json").write_text(json.dumps(record))


def tree(root: Path) -> dict[str, tuple[str, int]]:
    """Return content and mode of every file below *root*."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {
        path.relative_to(root).as_posix(): (digest(path.read_bytes()), path.stat().st_mode & 0o7777) for path in files
    }


def _indexes(packages: Mapping[str, bytes]) -> dict[str, bytes]:
    wheels = {Path(path).name: digest(content) for path, content in packages.items() if path.endswith(".whl")}
    projects = sorted({name.partition("-")[0] for name in wheels})
    indexes = {"mirror/pypi/simple/index.html": render_projects(projects)}
    for project in projects:
        files = {name: sha256 for name, sha256 in wheels.items() if name.partition("-")[0] == project}
        indexes[f"mirror/pypi/simple/{project}/index.html"] = render_project(files)
    records = {Path(path).name: _record(path, content) for path, content in packages.items() if ".conda" in path}
    indexes["mirror/conda/noarch/repodata.json"] = render_repodata("noarch", records)
    debs = {Path(path).name: _stanza(path, content) for path, content in packages.items() if path.endswith(".deb")}
    if debs:
        rendered = render_packages(debs)
        indexes[f"mirror/apt/{TARGET.name}/Packages"] = rendered
        indexes[f"mirror/apt/{TARGET.name}/Release"] = render_release(TARGET.name, rendered)
    return indexes


def _record(path: str, content: bytes) -> dict[str, str]:
    return {"name": Path(path).name.partition("-")[0], "sha256": digest(content)}


def _stanza(path: str, content: bytes) -> str:
    return f"Package: {Path(path).name.partition('_')[0]}\nSHA256: {digest(content)}\nFilename: {Path(path).name}\n"
