"""The node's own Python as a conda package, so that one engine installs both kinds of environment.

The package holds links and a ``pyvenv.cfg``: an environment that it is installed in is a virtual environment (PEP 405)
of the distribution's ``python3``, and conda packages and wheels install onto it as onto conda's own Python.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import tarfile
from typing import Any

from airgap.environment import PackageFile
from airgap.hashing import sha256_of_bytes
from airgap.sources.interface import GeneratedFile
from airgap.targets import Target

BUILD = "system_0"
"""Build string of the package; what tells it from a Python that is a conda package itself."""


def system_python_package(target: Target) -> tuple[GeneratedFile, PackageFile]:
    """Return the package for *target*'s Python: the file for the bundle, and its entry for environments.

    The same target gives the same bytes.
    """
    version = target.release.python
    index = {
        "arch": target.architecture,
        "build": BUILD,
        "build_number": 0,
        "depends": [],
        "name": "python",
        "platform": "linux",
        "subdir": target.conda_platform,
        "version": version,
    }
    content = _archive(version, index)
    file_name = f"python-{version}-{BUILD}.tar.bz2"
    path = f"conda/{target.conda_platform}/{file_name}"
    sha256 = sha256_of_bytes(content)
    record = index | {
        "md5": hashlib.md5(content, usedforsecurity=False).hexdigest(),
        "sha256": sha256,
        "size": len(content),
    }
    return (
        GeneratedFile(f"mirror/{path}", content, kind="conda", name="python", version=version),
        PackageFile(path, sha256, len(content), name="python", version=version, record=record),
    )


def _archive(version: str, index: dict[str, Any]) -> bytes:
    """Return the package's bytes: a ``.tar.bz2``, conda's older format, which the standard library can write."""
    links = {
        f"bin/python{version}": f"/usr/bin/python{version}",
        "bin/python3": f"python{version}",
        "bin/python": f"python{version}",
    }
    files = {
        "pyvenv.cfg": (
            f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\n"
            f"executable = /usr/bin/python{version}\n"
        ).encode()
    }
    paths = [
        {"_path": path, "path_type": "hardlink", "sha256": sha256_of_bytes(content), "size_in_bytes": len(content)}
        for path, content in files.items()
    ] + [
        # The hash of a link is that of what it points to, which differs between nodes: leave it out.
        {"_path": path, "path_type": "softlink"}
        for path in links
    ]
    paths.sort(key=lambda entry: str(entry["_path"]))
    files |= {
        "info/index.json": _json(index),
        "info/paths.json": _json({"paths": paths, "paths_version": 1}),
        "info/files": "".join(f"{entry['_path']}\n" for entry in paths).encode(),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content in sorted(files.items()):
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
        for path, link_target in sorted(links.items()):
            member = tarfile.TarInfo(path)
            member.type, member.linkname, member.mode = tarfile.SYMTYPE, link_target, 0o777
            archive.addfile(member)
    return bz2.compress(buffer.getvalue())


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()
