"""An environment with everything that installers change, installed for audits to look at."""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from installables import Node

from airgap.environment import Environment, PackageFile
from airgap.hashing import sha256_of_bytes
from airgap.manifest import Manifest, ManifestEnvironment, ManifestFile, ManifestTarget
from airgap.system_python import system_python_package

PLACEHOLDER = ("/build/" + "placehold_" * 30)[:255]


def conda_package(
    name: str,
    files: dict[str, bytes],
    *,
    subdir: str,
    links: dict[str, str] | None = None,
    placeholders: dict[str, str] | None = None,
    entry_points: list[str] | None = None,
) -> tuple[str, bytes, dict[str, Any]]:
    """Return path in the mirror, content and record of a package; *placeholders* has ``text`` or ``binary`` by path."""
    index: dict[str, Any] = {"name": name, "version": "1.0", "build": "0", "build_number": 0, "depends": []}
    index["subdir"] = subdir
    listed = []
    for path, content in files.items():
        entry = {"_path": path, "path_type": "hardlink", "sha256": sha256_of_bytes(content)}
        entry |= {"size_in_bytes": len(content)}  # type: ignore[dict-item]
        if path in (placeholders or {}):
            entry |= {"file_mode": (placeholders or {})[path], "prefix_placeholder": PLACEHOLDER}
        listed.append(entry)
    listed += [{"_path": path, "path_type": "softlink"} for path in links or {}]
    if subdir == "noarch":
        index["noarch"] = "python"
    members = dict(files)
    if entry_points:
        link = {"noarch": {"type": "python", "entry_points": entry_points}, "package_metadata_version": 1}
        members["info/link.json"] = json.dumps(link).encode()
    members["info/index.json"] = json.dumps(index).encode()
    members["info/paths.json"] = json.dumps({"paths": listed, "paths_version": 1}).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, content in members.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
        for path, target in (links or {}).items():
            member = tarfile.TarInfo(path)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    content = bz2.compress(buffer.getvalue())
    digests = {"md5": hashlib.md5(content, usedforsecurity=False).hexdigest(), "sha256": sha256_of_bytes(content)}
    return f"conda/{subdir}/{name}-1.0-0.tar.bz2", content, index | digests | {"size": len(content)}


def wheel_with_data() -> bytes:
    """Return a wheel with programs of both kinds, a header, data, and a module that does not compile."""
    information = "Gamma_Ray-1.0.dist-info"
    data = "Gamma_Ray-1.0.data"
    files = {
        "gamma/__init__.py": "def main():\n    return 1\n",
        "gamma/broken.py": "this is ( no code\n",
        "gamma/values.py": "VALUES = (1, 1.0, True, -0.0, 0.0, 1j, b'', '', ..., frozenset((1, 2)))\n",
        f"{data}/purelib/gamma_pure.py": "PURE = True\n",
        f"{data}/scripts/gamma-script": "#!python\nprint('script')\n",
        f"{data}/scripts/gamma-shell": "#!/bin/sh\necho shell\n",
        f"{data}/headers/gamma.h": "/* header */\n",
        f"{data}/data/share/gamma/data.txt": "data\n",
        f"{information}/METADATA": "Metadata-Version: 2.4\nName: Gamma-Ray\nVersion: 1.0\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{information}/entry_points.txt": (
            "[console_scripts]\nGamma = gamma:main\ngamma-sub = gamma : main.__call__ [extra]\n"
            "[gui_scripts]\ngamma-gui=gamma:main\n[other]\nx = y:z\n"
        ),
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{information}/RECORD"])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in (files | {f"{information}/RECORD": record}).items():
            archive.writestr(zipfile.ZipInfo(path), content)
    return buffer.getvalue()


def describe(node: Node, name: str = "prefect", *, root: Path) -> Path:
    """Put packages of every kind into the mirror of a controller's *root*; return the environment's description."""
    platform = node.target.conda_platform
    file, python = system_python_package(node.target)
    contents = {python.path: file.content}
    conda = [python]
    for path, content, record in (
        conda_package(
            "native",
            {
                "bin/native": f"#!{PLACEHOLDER}/bin/sh\necho {PLACEHOLDER}/share\n".encode(),
                "lib/libnative.so": b"\x7fELF\0" + f"{PLACEHOLDER}/lib:{PLACEHOLDER}/lib64".encode() + b"\0\0tail\0",
                "share/native.txt": b"plain\n",
                "etc/conda/env_vars.d/native.json": b'{"NATIVE_HOME": "it is here"}',
            },
            subdir=platform,
            links={"lib/libnative.so.1": "libnative.so"},
            placeholders={"bin/native": "text", "lib/libnative.so": "binary"},
        ),
        conda_package(
            "pure",
            {
                "site-packages/pure/__init__.py": b"def main():\n    print('pure')\n",
                "python-scripts/pure-script": f"#!{PLACEHOLDER}/bin/python\nprint('script')\n".encode(),
                "share/pure.txt": b"pure\n",
            },
            subdir="noarch",
            placeholders={"python-scripts/pure-script": "text"},
            entry_points=["pure = pure:main", "pure-two=pure:main.__call__"],
        ),
    ):
        contents[path] = content
        conda.append(PackageFile(path, sha256_of_bytes(content), len(content), record["name"], "1.0", record=record))
    wheel = wheel_with_data()
    path = "pypi/Gamma_Ray-1.0-py3-none-any.whl"
    contents[path] = wheel
    wheels = [PackageFile(path, sha256_of_bytes(wheel), len(wheel), "gamma-ray", "1.0")]
    for path, content in contents.items():
        (root / "mirror" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "mirror" / path).write_bytes(content)
    release = node.target.release
    environment = Environment(name, node.target.name, "system", release.python, platform, tuple(conda), tuple(wheels))
    description = root / f"environments/{name}.{node.target.name}.json"
    description.parent.mkdir(exist_ok=True)
    description.write_text(environment.to_json())
    write_manifest(root, node, environment, description)
    return description


def write_manifest(root: Path, node: Node, environment: Environment, description: Path) -> None:
    """Record *environment* as that of the bundle which is installed in *root*."""
    release = node.target.release
    path = description.relative_to(root).as_posix()
    text = description.read_bytes()
    manifest = Manifest(
        bundle_version="1",
        created_by="test",
        interpreter="system",
        interpreter_reason="test",
        targets=(
            ManifestTarget(node.target.name, release.name, release.codename, node.target.architecture, release.python),
        ),
        environments=(ManifestEnvironment(environment.name, node.target.name, "system", environment.digest, path),),
        files=(ManifestFile(path, sha256_of_bytes(text), len(text), "environment"),),
    )
    (root / "manifest.json").write_text(manifest.to_json())
