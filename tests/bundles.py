"""Small bundles, for tests of what reads them."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

from airgap.archive import Entry, write_archive
from airgap.assemble import with_lists, with_signature
from airgap.hashing import sha256_of_bytes
from airgap.manifest import Kind, Manifest, ManifestFile, ManifestTarget

FILES = {
    "README.md": b"read me\n",
    "ansible/main.yml": b"---\n",
    "install-pag-controller.sh": b"#!/bin/sh\n",
    "mirror/pypi/a-1-py3-none-any.whl": b"\0" * 100_000,
}


def listed(path: str, content: bytes) -> ManifestFile:
    kind: Kind = "wheel" if path.endswith(".whl") else "deb" if path.endswith(".deb") else "software"
    return ManifestFile(path, sha256_of_bytes(content), len(content), kind, executable=path.endswith(".sh"))


def make_entries(
    files: dict[str, bytes] | None = None,
    *,
    key: Path | None = None,
    base: str | None = None,
    relies_on: tuple[ManifestFile, ...] = (),
) -> list[Entry]:
    contents = FILES if files is None else files
    manifest = Manifest(
        bundle_version="1.2.3",
        created_by="tests",
        interpreter="system",
        interpreter_reason="of the test",
        targets=(ManifestTarget("debian-12-x86_64", "debian-12", "bookworm", "x86_64", "3.11"),),
        environments=(),
        files=tuple(listed(path, content) for path, content in contents.items()),
        base=base,
        relies_on=relies_on,
    )
    entries, _digest = with_lists(manifest, contents)
    return with_signature(entries, key) if key else entries


def make_archive(
    output: Path,
    files: dict[str, bytes] | None = None,
    *,
    key: Path | None = None,
    base: str | None = None,
    relies_on: tuple[ManifestFile, ...] = (),
) -> Path:
    write_archive(output, make_entries(files, key=key, base=base, relies_on=relies_on))
    return output


def make_key(path: Path) -> Path:
    """Make an Ed25519 key at *path*, and return it; its public part is beside it."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], check=True)
    return path


def allow(signers: Path, *keys: Path, options: str = "", name: str | None = None) -> Path:
    """Write a file of allowed signers, by default each with the name of its key's file."""
    lines = (f"{name or f'{key.name}@site'} {options} {key.with_name(f'{key.name}.pub').read_text()}" for key in keys)
    signers.write_text("".join(lines))
    return signers


def unpack(archive: Path, directory: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(directory)  # noqa: S202  our own
    return directory / "pag-software-bundle"
