"""Debian's Python 3.11 as a conda package ``python``: relocated into whatever prefix it is installed in."""

from __future__ import annotations

import subprocess
from pathlib import Path

from channel.packages import File, Package

VERSION = "3.11"
_DEBS = ("python3.11", "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib")
# Debian's own: where its packages go, and what keeps pip out.
_LEFT_OUT = ("EXTERNALLY-MANAGED", "sitecustomize.py", "_sysconfigdata__linux_x86_64-linux-gnu.py")


_SITECUSTOMIZE = b"""\
import site
import sys

site.addsitedir(f"{sys.prefix}/lib/python3.11/site-packages")
"""


def debian_python(work: Path) -> Package:
    """Fetch the Debian packages into *work* with apt and return them as one conda package."""
    debs, tree = work / "debs", work / "tree"
    debs.mkdir(parents=True, exist_ok=True)
    if not any(debs.glob("*.deb")):
        # As it is for packages that are not installed: apt fetches, and changes nothing.
        subprocess.run(["apt-get", "-qq", "download", *_DEBS], cwd=debs, check=True, stderr=subprocess.DEVNULL)
    for deb in sorted(debs.glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", str(deb), str(tree)], check=True)
    full_version = next(debs.glob("python3.11_*.deb")).name.split("_")[1].partition("-")[0]
    files = {
        "bin/python3.11": File((tree / "usr/bin/python3.11").read_bytes(), executable=True),
        "bin/python3": File(target="python3.11"),
        "bin/python": File(target="python3.11"),
    }
    library = tree / "usr/lib"
    for path in sorted((library / "python3.11").rglob("*")):
        name = path.relative_to(library).as_posix()
        if path.is_file() and not path.is_symlink() and path.name not in _LEFT_OUT:
            files[f"lib/{name}"] = File(path.read_bytes())
    _use_upstream_schemes(files)
    return Package(
        name="python",
        version=full_version,
        files=files,
        build="0_cpython",
        subdir="linux-64",
        depends=["__glibc >=2.36", "__linux"],
        licence="PSF-2.0",
    )


def _use_upstream_schemes(files: dict[str, File]) -> None:
    """Let packages be in ``site-packages``, as in every Python but Debian's.

    The module ``site`` that decides it is frozen into the interpreter.
    """
    files["lib/python3.11/sitecustomize.py"] = File(_SITECUSTOMIZE)
    name, old = "lib/python3.11/sysconfig.py", b"prefix_scheme = 'posix_local'"
    content = files[name].content
    if old not in content:
        raise ValueError(f"Debian's {name} is not as it was")
    files[name] = File(content.replace(old, b"prefix_scheme = 'posix_prefix'"))
