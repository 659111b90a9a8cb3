"""A checkout whose environments come from the conda channel that the tests make themselves."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from checkouts import REPOSITORY, copy_repository

# What the locks name, as a real one names its channel; --channel maps it to the directory. Nobody has this host name.
CHANNEL = "https://channel.invalid/tests"


def make(directory: Path) -> list[str]:
    """Make the channel and the checkout below *directory*; return the arguments that build a bundle from them.

    The checkout's environments are those of this repository, locked anew over the channel and its Python. Raises
    CalledProcessError when the channel cannot be made or does not have what the environments need.
    """
    channel = directory / "channel"
    build = REPOSITORY / "tests/channel/build.py"
    subprocess.run([sys.executable, build, channel], check=True, stdout=subprocess.DEVNULL)
    copy = checkout(directory)
    copy_repository(copy)
    projects = [copy, *sorted(path.parent for path in copy.glob("flows/*/pixi.toml"))]
    for project in projects:
        manifest = project / "pixi.toml"
        text = manifest.read_text(encoding="utf-8").replace('channels = ["conda-forge"]', f'channels = ["{CHANNEL}"]')
        # The channel's Python is the one that Debian's packages are repackaged from.
        manifest.write_text(re.sub(r'^python = ".*"', 'python = "3.11.*"', text, flags=re.MULTILINE), encoding="utf-8")
        with manifest.open("a", encoding="utf-8") as stream:
            stream.write('\n[system-requirements]\nlibc = "2.36"\n')
        (project / "pixi.lock").unlink(missing_ok=True)
    locker = [
        sys.executable,
        str(copy / "tools/lock_conda.py"),
        "--channel",
        channel.as_uri(),
        "--lock-channel",
        CHANNEL,
    ]
    subprocess.run([*locker, *map(str, projects)], check=True, stdout=subprocess.DEVNULL)
    return ["--python", "conda", "--channel", f"{CHANNEL}={channel.as_uri()}"]


def checkout(directory: Path) -> Path:
    """Return where the checkout below *directory* is."""
    return directory / "checkout"
