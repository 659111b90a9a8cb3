"""Small bundles, for tests of what reads them."""

from __future__ import annotations

import tarfile
from pathlib import Path

from airgap.archive import write_archive
from airgap.assemble import with_lists
from airgap.hashing import sha256_of_bytes
from airgap.manifest import Manifest, ManifestFile, ManifestTarget

FILES = {
    "README.md": b"read me\n",
    "ansible/main.yml": b"---\n",
    "install-pag-controller.sh": b"#!/bin/sh\n",
    "mirror/pypi/a-1-py3-none-any.whl": b"\0" * 100_000,
}


def make_archive(output: Path, files: dict[str, bytes] | None = None) -> Path:
    contents = FILES if files is None else files
    manifest = Manifest(
        bundle_version="1.2.3",
        created_by="tests",
        interpreter="system",
        interpreter_reason="of the test",
        targets=(ManifestTarget("debian-12-x86_64", "debian-12", "bookworm", "x86_64", "3.11"),),
        environments=(),
        files=tuple(
            ManifestFile(path, sha256_of_bytes(content), len(content), "software", executable=path.endswith(".sh"))
            for path, content in contents.items()
        ),
    )
    entries, _digest = with_lists(manifest, contents)
    write_archive(output, entries)
    return output


def unpack(archive: Path, directory: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(directory)  # noqa: S202  our own
    return directory / "pag-software-bundle"
