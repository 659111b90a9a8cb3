"""A small Debian archive, signed with a key of its own, for tests of what apt makes of it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

SUITES = ("bookworm", "bookworm-updates", "bookworm-security")


@dataclass(frozen=True)
class Deb:
    """A package of the archive; its content is no Debian package, but has a hash and a size."""

    name: str
    version: str
    fields: str = ""
    """More lines of its stanza: ``Depends: ...``."""
    architecture: str = "amd64"

    @property
    def content(self) -> bytes:
        return f"deb of {self.name} {self.version} {self.architecture}".encode()

    @property
    def path(self) -> str:
        version = self.version.partition(":")[2] or self.version
        return f"pool/{self.name}_{version}_{self.architecture}.deb"

    @property
    def stanza(self) -> str:
        return (
            f"Package: {self.name}\nVersion: {self.version}\nArchitecture: {self.architecture}\n{self.fields}"
            f"Filename: {self.path}\nSize: {len(self.content)}\nSHA256: {hashlib.sha256(self.content).hexdigest()}\n"
        )


def make_key(home: Path) -> Path:
    """Make a signing key in *home*, with its public half in ``keyrings/``, and return *home*."""
    if shutil.which("gpg") is None or shutil.which("apt-get") is None:
        pytest.skip("needs gpg and apt")
    home.chmod(0o700)
    gpg(home, "--passphrase", "", "--quick-generate-key", "archive@test.invalid", "ed25519", "sign", "never")
    (home / "keyrings").mkdir()
    gpg(home, "--output", str(home / "keyrings" / "debian-archive-keyring.gpg"), "--export")
    return home


def write_archive(
    root: Path, suites: Mapping[str, Sequence[Deb]], key: Path, architectures: Sequence[str] = ("amd64",)
) -> None:
    """Write an archive of *suites* at *root*, and the link beside it where its security updates are looked for."""
    root.with_name(f"{root.name}-security").symlink_to(root.name)
    for suite in SUITES:
        sums = ""
        for architecture in architectures:
            debs = [deb for deb in suites.get(suite, ()) if deb.architecture in (architecture, "all")]
            index = root / "dists" / suite / "main" / f"binary-{architecture}" / "Packages"
            index.parent.mkdir(parents=True)
            index.write_text("\n".join(deb.stanza for deb in debs), encoding="utf-8")
            content = index.read_bytes()
            sums += f" {hashlib.sha256(content).hexdigest()} {len(content)} main/binary-{architecture}/Packages\n"
            for deb in debs:
                (root / deb.path).parent.mkdir(exist_ok=True)
                (root / deb.path).write_bytes(deb.content)
        release = root / "dists" / suite / "Release"
        release.write_text(
            f"Origin: Test\nSuite: {suite}\nCodename: {suite}\nArchitectures: {' '.join(architectures)}\n"
            f"Components: main\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n{sums}",
            encoding="utf-8",
        )
        gpg(key, "--clearsign", "--output", str(release.with_name("InRelease")), str(release))


def gpg(home: Path, *arguments: str) -> None:
    """Run gpg with the keys in *home*, and end the agent that it leaves behind."""
    subprocess.run(["gpg", "--homedir", str(home), "--batch", "--yes", *arguments], check=True, capture_output=True)
    config = ["gpgconf", "--homedir", str(home)]
    subprocess.run([*config, "--kill", "all"], check=True)
    # It ends a moment later. Whoever calls gpg meanwhile is let down by an agent that is about to go.
    listed = subprocess.run([*config, "--list-dirs", "agent-socket"], check=True, capture_output=True, text=True).stdout
    deadline = time.monotonic() + 10
    while Path(listed.strip()).exists():
        assert time.monotonic() < deadline, "gpg's agent does not end"
        time.sleep(0.01)
