"""A lock over the channel, and what a bundle built from it would bring to a node."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from airgap.environment import Environment, PackageFile
from airgap.sources.conda import CondaSource
from airgap.targets import Target

_TOOL = Path(__file__).resolve().parents[2] / "tools/lock_conda.py"
_MANIFEST = """\
[workspace]
name = "test"
channels = ["{channel}"]
platforms = ["linux-64"]

[system-requirements]
libc = "2.36"

[dependencies]
"""


def lock_environment(project: Path, channel: Path, dependencies: Mapping[str, str]) -> Path:
    """Write ``pixi.toml`` with *dependencies* into *project*, lock it over *channel*, and return the lock."""
    project.mkdir(parents=True, exist_ok=True)
    text = _MANIFEST.format(channel=channel.as_uri())
    text += "".join(f'{name} = "{spec}"\n' for name, spec in dependencies.items())
    (project / "pixi.toml").write_text(text)
    # A process of its own: rattler's solver sometimes crashes the interpreter while it exits.
    subprocess.run(
        [sys.executable, str(_TOOL), "--channel", channel.as_uri(), str(project)], check=True, capture_output=True
    )
    return project / "pixi.lock"


def bring_environment(name: str, lock: Path, target: Target, mirror: Path) -> Environment:
    """Link what *lock* names into *mirror*, as a bundle brings it, and return the environment."""
    locked = CondaSource({}).resolve(lock, "default", target)
    packages = []
    for download in locked.conda:
        path = download.path.removeprefix("mirror/")
        (mirror / path).parent.mkdir(parents=True, exist_ok=True)
        if not (mirror / path).exists():
            os.link(unquote(urlsplit(download.url).path), mirror / path)
        packages.append(
            PackageFile(
                path,
                download.sha256,
                (mirror / path).stat().st_size,
                download.name,
                download.version,
                dict(download.record or {}),
            )
        )
    minor = ".".join(locked.python.split(".")[:2])
    return Environment(name, target.name, "conda", minor, target.conda_platform, tuple(packages))
