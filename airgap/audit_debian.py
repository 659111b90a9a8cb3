"""MD5 sums of the files in the mirror's Debian packages, as dpkg keeps them on a node.

From the packages, so that a node's own record is not all there is. ``dpkg-deb`` opens them: the controller has it, and
it knows every compression.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from airgap.errors import VerificationError
from airgap.hashing import sha256_of_file


def debian_checksums(directory: Path, accepted: Mapping[str, set[str]]) -> dict[str, str]:
    """Return the ``md5sums`` of packages in *directory*, by ``<name> <version> <architecture>``.

    *accepted* has the SHA-256 that manifests name, by file name: other files are left out. Raises VerificationError
    when a file is not the one that the manifests name.
    """
    paths = [path for path in sorted(directory.glob("*.deb")) if path.name in accepted]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(pool.map(lambda path: _checksums(path, accepted[path.name]), paths))


def _checksums(path: Path, accepted: set[str]) -> tuple[str, str]:
    if sha256_of_file(path) not in accepted:
        raise VerificationError(f"{path} is damaged (its SHA-256 differs): carry the bundle over again.")
    with _opened(path, "--ctrl-tarfile") as control:
        files = {member.name.removeprefix("./"): control.extractfile(member) for member in control if member.isfile()}
        content = {name: stream.read().decode("utf-8") for name, stream in files.items() if stream is not None}
    fields = dict(line.split(": ", 1) for line in content["control"].splitlines() if ": " in line[1:])
    identity = f"{fields['Package']} {fields['Version']} {fields['Architecture']}"
    # Packages need not have the list; dpkg makes one when it installs them, without configuration files.
    return identity, content["md5sums"] if "md5sums" in content else _computed(path, content.get("conffiles", ""))


def _computed(path: Path, configuration: str) -> str:
    lines = []
    skipped = {line.split()[-1].lstrip("/") for line in configuration.splitlines() if line.strip()}
    with _opened(path, "--fsys-tarfile") as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isfile() else None
            name = member.name.removeprefix("./")
            if stream is not None and name not in skipped:
                lines.append(f"{hashlib.md5(stream.read(), usedforsecurity=False).hexdigest()}  {name}\n")
    return "".join(lines)


def _opened(path: Path, part: str) -> tarfile.TarFile:
    finished = subprocess.run(["dpkg-deb", part, str(path)], stdin=subprocess.DEVNULL, capture_output=True)
    if finished.returncode != 0:
        reason = " ".join(finished.stderr.decode("utf-8", "replace").split())
        raise VerificationError(f"{path} cannot be opened ({reason}): carry the bundle over again.")
    return tarfile.open(fileobj=io.BytesIO(finished.stdout))
