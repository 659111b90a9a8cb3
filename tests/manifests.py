"""Small manifests and environments, for tests of what compares and describes them."""

from __future__ import annotations

from typing import Any

from airgap.environment import Environment, PackageFile
from airgap.hashing import sha256_of_bytes
from airgap.manifest import Kind, Manifest, ManifestEnvironment, ManifestFile, ManifestTarget

TARGET = ManifestTarget("debian-12-x86_64", "debian-12", "bookworm", "x86_64", "3.11")
OTHER_TARGET = ManifestTarget("ubuntu-24.04-aarch64", "ubuntu-24.04", "noble", "aarch64", "3.12")


def package(
    kind: Kind,
    name: str,
    version: str,
    *,
    target: str = TARGET.name,
    variant: str = "",
    licence: str | None = "MIT",
    size: int = 1000,
) -> ManifestFile:
    """Return a package's entry; another *variant* is another file of the same version."""
    path = {
        "deb": f"mirror/apt/{target}/{name}_{version.partition(':')[2] or version}_{variant or 'amd64'}.deb",
        "wheel": f"mirror/pypi/{name}-{version}-py3-none-{variant or 'any'}.whl",
        "conda": f"mirror/conda/linux-64/{name}-{version}-{variant or 'h_0'}.conda",
    }[kind]
    return ManifestFile(path, sha256_of_bytes(f"{path} {variant}".encode()), size, kind, name, version, licence)


def environment(
    name: str, *packages: ManifestFile, target: ManifestTarget = TARGET
) -> tuple[Environment, ManifestEnvironment]:
    """Return an environment of *packages*, and a manifest's entry of it."""
    files = {
        file.path: PackageFile(
            file.path.removeprefix("mirror/"),
            file.sha256,
            file.size,
            file.name or "",
            file.version or "",
            {"build": "h_0"} if file.kind == "conda" else None,
        )
        for file in packages
    }
    described = Environment(
        name,
        target.name,
        "system",
        target.python,
        "linux-64",
        tuple(files[file.path] for file in packages if file.kind == "conda"),
        tuple(files[file.path] for file in packages if file.kind == "wheel"),
    )
    path = f"environments/{name}.{target.name}.json"
    entry = ManifestEnvironment(
        name, target.name, "system", described.digest, path, prefect_version=described.version_of("prefect")
    )
    return described, entry


def manifest(*files: ManifestFile, **options: Any) -> Manifest:
    """Return a manifest of *files*; *options* are its other fields."""
    fields: dict[str, Any] = {
        "bundle_version": "1.2.3",
        "created_by": "tests",
        "interpreter": "system",
        "interpreter_reason": "of the test",
        "targets": (TARGET,),
        "environments": (),
        "files": files,
    }
    return Manifest(**(fields | options))
