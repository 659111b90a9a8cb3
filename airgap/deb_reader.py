"""Reads a Debian package's ``copyright`` file out of the ``.deb``.

dpkg-deb opens packages of every compression that Debian and Ubuntu use, in a process of its own, so that several are
decompressed at once; what follows the file is never decompressed.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from airgap.errors import ResolutionError

_BLOCK_BYTES = 256 * 1024


@dataclass(frozen=True)
class CopyrightFile:
    """What a package has as its copyright file: a text, or a link to another package's."""

    text: str | None = None
    package: str | None = None


def read_copyright(deb: Path, package: str) -> CopyrightFile:
    """Return the copyright file of *package* in the file *deb*; both fields are None when it has none.

    Raises ResolutionError when the package cannot be read.
    """
    if shutil.which("dpkg-deb") is None:
        raise ResolutionError("dpkg-deb is not on this host: build the bundle on Debian or Ubuntu.")
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None  # noqa: S101  for the type checker: it is a pipe
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|", bufsize=_BLOCK_BYTES) as archive:
                return _find(archive, package)
        except (tarfile.TarError, EOFError) as error:
            raise ResolutionError(f"dpkg-deb on this host cannot read {package}'s package ({error}).") from error
        finally:
            # dpkg-deb ends when nobody reads on.
            process.stdout.close()


def _find(archive: tarfile.TarFile, package: str) -> CopyrightFile:
    directory = f"./usr/share/doc/{package}"
    for member in archive:
        if member.name == directory and member.issym():
            return CopyrightFile(package=member.linkname.rstrip("/").rpartition("/")[2])
        if member.name == f"{directory}/copyright":
            if member.issym() or member.islnk():
                return CopyrightFile(package=member.linkname.split("/")[-2])
            content = archive.extractfile(member)
            return CopyrightFile(text=content.read().decode("utf-8", "replace") if content else None)
    return CopyrightFile()
