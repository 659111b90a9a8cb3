"""An update of a site: the changes of a release, and the README's commands that bring them there as a delta."""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import readme
from checkouts import copy_repository
from machines import unprivileged

ARCHIVE = "pag-software-bundle.tar.gz"
SIGNER = "release"
"""Who signs bundles, in the site's ``allowed_signers``."""


@dataclass(frozen=True)
class Pin:
    """A version of a package, as a lock names it."""

    name: str
    version: str
    sha256: tuple[str, ...]
    """Of all its files in the index."""

    def put_into(self, lock: Path) -> None:
        """Lock this version in a ``requirements.txt`` instead of the one that is there; the package must be."""
        hashes = "".join(f" \\\n    --hash=sha256:{digest}" for digest in self.sha256)
        pattern = rf"^{re.escape(self.name)}==\S+(?: \\\n    --hash=\S+)+$"
        text, count = re.subn(
            pattern, lambda _: f"{self.name}=={self.version}{hashes}", lock.read_text(), flags=re.MULTILINE
        )
        if count != 1:
            raise ValueError(f"{lock} has {count} entries of {self.name}.")
        lock.write_text(text)


BASE_PACKAGE = Pin(
    "humanize",
    "4.15.0",
    (
        "1dd098483eb1c7ee8e32eb2e99ad1910baefa4b75c3aff3a82f4d78688993b10",
        "b1186eb9f5a9749cd9cb8565aee77919dd7c8d076161cf44d70e59e3301e1769",
    ),
)
"""What the update changes in the base environment, and in all that are locked with it."""

FLOW_PACKAGE = Pin(
    "coolname",
    "4.2.0",
    (
        "6a67db5e3c3f1b196a9ad4563af118da0d962875ed9b6e8a6dfd96e045847c3a",
        "b0f2d6d4654d627230e143f9efa5c5e1955b11e0cdd54211558c1170496f9f19",
    ),
)
"""What it changes in demo2's environment."""


def make_checkout(destination: Path) -> None:
    """Make a copy of the repository with the update: a package of the base; demo2's code, data, and a package of it."""
    copy_repository(destination)
    # Flows are locked with the base environment's versions.
    for lock in (destination / "requirements/prefect.txt", *destination.glob("flows/*/requirements.txt")):
        BASE_PACKAGE.put_into(lock)
    FLOW_PACKAGE.put_into(destination / "flows/demo2/requirements.txt")
    # Enough for several volumes of the smallest size, whatever else travels.
    (destination / "flows/demo2/table.bin").write_bytes(random.Random(1).randbytes(2_500_000))  # noqa: S311
    code = destination / "flows/demo2/main.py"
    text = code.read_text(encoding="utf-8")
    text = text.replace("import sys\n", "import sys\nfrom importlib.metadata import version\n", 1)
    said = f'    print("{FLOW_PACKAGE.name}", version("{FLOW_PACKAGE.name}"))\n'
    code.write_text(
        text.replace("    return sys.executable\n", f"{said}    return sys.executable\n", 1), encoding="utf-8"
    )


def build(checkout: Path, arguments: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Type the README's command that builds a delta in *checkout*, with more *arguments*; return what came of it."""
    (command,) = readme.commands("bootstrapper-delta")
    user = os.environ.get("SUDO_USER")
    if user:
        shutil.chown(checkout, user)
    # Not with the tests' own environment: the operator's python3 is the system's.
    path = os.pathsep.join(
        entry for entry in os.environ["PATH"].split(os.pathsep) if Path(entry) != Path(sys.executable).parent
    )
    return subprocess.run(
        unprivileged(["bash", "-c", f"{command} {shlex.join(map(str, arguments))}"]),
        cwd=checkout,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PATH": path},
    )


def make_key(file: Path) -> str:
    """Make a key without a passphrase and return the line of ``allowed_signers`` that lets it sign bundles."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", SIGNER, "-f", file], check=True)
    user = os.environ.get("SUDO_USER")
    if user:
        shutil.chown(file, user)
    return f'{SIGNER} namespaces="pag-bundle" {file.with_suffix(".pub").read_text()}'


def volumes(directory: Path) -> list[Path]:
    """Return the volumes in a directory, in order."""
    return sorted(path for path in directory.iterdir() if re.fullmatch(rf"{re.escape(ARCHIVE)}\.\d{{3,}}", path.name))


def killed_after(seconds: float, command: str) -> str:
    """Return the shell command that runs *command* as the SSH user, and after some time kills it and all its children.

    It ends with 137 when it was killed. As root, because of what the command starts with sudo.
    """
    return f"sudo timeout --signal=KILL {seconds} runuser -u $(id -un) -- {command}; exit $?"
