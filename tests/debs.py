"""Small Debian packages, for tests, made with dpkg-deb."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


def make_deb(
    directory: Path,
    name: str,
    *,
    files: dict[str, str] | None = None,
    links: dict[str, str] | None = None,
    compression: str = "xz",
) -> Path:
    """Write the package *name* with *files* and symbolic *links* by their paths; skip the test where that cannot be."""
    root = directory / f"{name}.root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@invalid>\nDescription: test\n"
    )
    for path, content in (files or {}).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    for path, destination in (links or {}).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(destination)
    deb = directory / f"{name}_1_all.deb"
    command = ["dpkg-deb", "--build", "--root-owner-group", f"-Z{compression}", str(root), str(deb)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"dpkg-deb on this host does not build packages with {compression}: {error}")
    return deb
