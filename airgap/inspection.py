"""What a bundle holds, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from airgap.manifest import Manifest, ManifestFile
from airgap.progress import human_size
from airgap.tables import text_table
from airgap.verify import Bundle

FORMAT_VERSION = 1

_PACKAGES = {"conda": "conda", "wheel": "PyPI", "deb": "Debian"}
_NONE = "-"


def describe(bundle: Bundle) -> str:
    """Return the receipt, the environments, and the files by kind, as text."""
    manifest = bundle.manifest
    lines = [str(bundle.receipt), f"because  {manifest.interpreter_reason}", ""]
    lines += text_table(
        ("environment", "target", "python", "prefect", "digest"),
        [
            [entry.name, entry.target, entry.interpreter, entry.prefect_version or _NONE, entry.digest[:12]]
            for entry in manifest.environments
        ],
    )
    lines.append("")
    headers = ("kind", "files", "size", *(("relied on", "size") if manifest.relies_on else ()))
    rows = []
    for kind in _kinds(manifest):
        row = [kind["kind"], str(kind["files"]), human_size(kind["bytes"])]
        if manifest.relies_on:
            row += [str(kind["relied_on_files"]), human_size(kind["relied_on_bytes"])]
        rows.append(row)
    lines += text_table(headers, rows)
    return "\n".join(lines)


def licence_table(bundle: Bundle, sbom: bytes | None) -> str:
    """Return a table of the packages, those too that a delta relies on, with their licences and their users.

    *sbom* is the bundle's ``sbom.cdx.json``, which knows the users.
    """
    rows = [
        [
            package["name"],
            package["version"] or _NONE,
            package["kind"],
            package["licence"] or _NONE,
            ", ".join(package["used_by"]) or _NONE,
        ]
        for package in _packages(bundle.manifest, sbom)
    ]
    return "\n".join(text_table(("package", "version", "kind", "licence", "used by"), rows))


def to_json(bundle: Bundle, sbom: bytes | None, licences: bool) -> str:
    """Return what :func:`describe` tells, and with *licences* :func:`licence_table` too, as JSON."""
    document: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "receipt": asdict(bundle.receipt),
        "interpreter_reason": bundle.manifest.interpreter_reason,
        "environments": [asdict(environment) for environment in bundle.manifest.environments],
        "kinds": list(_kinds(bundle.manifest)),
    }
    if licences:
        document["packages"] = list(_packages(bundle.manifest, sbom))
    return json.dumps(document, indent=1, sort_keys=True)


def _kinds(manifest: Manifest) -> Iterator[dict[str, Any]]:
    for kind in sorted({file.kind for file in manifest.all_files}):
        files, relied_on = (
            [file for file in some if file.kind == kind] for some in (manifest.files, manifest.relies_on)
        )
        yield {
            "kind": kind,
            "files": len(files),
            "bytes": sum(file.size for file in files),
            "relied_on_files": len(relied_on),
            "relied_on_bytes": sum(file.size for file in relied_on),
        }


def _packages(manifest: Manifest, sbom: bytes | None) -> Iterator[dict[str, Any]]:
    users = _users(json.loads(sbom) if sbom is not None else {}, several=len(manifest.targets) > 1)
    carried = {file.path for file in manifest.files}

    def order(file: ManifestFile) -> tuple[str, str, str]:
        return file.name or "", file.kind, file.path

    for file in sorted(manifest.all_files, key=order):
        if file.kind in _PACKAGES:
            yield {
                "name": file.name,
                "version": file.version,
                "kind": _PACKAGES[file.kind],
                "licence": file.licence,
                "used_by": users.get(file.path, []),
                "carried": file.path in carried,
                "path": file.path,
                "sha256": file.sha256,
            }


def _users(sbom: Mapping[str, Any], several: bool) -> Mapping[str, Sequence[str]]:
    """Return who uses each file, by the dependencies in *sbom*; targets are named where there are *several*."""
    names = {}
    for component in sbom.get("components", []):
        reference = component["bom-ref"]
        if component["type"] == "platform":
            names[reference] = reference.removeprefix("environments/").removesuffix(".json")
            if not several:
                names[reference] = component["name"]
        elif component["type"] == "operating-system":
            names[reference] = reference
    users: dict[str, list[str]] = {}
    for entry in sbom.get("dependencies", []):
        if entry["ref"] in names:
            for path in entry.get("dependsOn", []):
                users.setdefault(path, []).append(names[entry["ref"]])
    return {path: sorted(found) for path, found in users.items()}
