"""An environment's description: the exact files it is made of, and a digest over them.

Written by the builder into ``environments/<name>.<target>.json`` and by the controller for packs that were carried in;
read on the nodes, which install nothing else.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from airgap.errors import ManifestError

FORMAT_VERSION = 1

Interpreter = Literal["conda", "system"]


@dataclass(frozen=True)
class PackageFile:
    """A package that an environment installs."""

    path: str
    """Below the mirror's root: ``conda/<subdir>/<file>`` or ``pypi/<file>``."""
    sha256: str
    size: int
    """Bytes."""
    name: str
    version: str
    record: dict[str, Any] | None = None
    """For conda packages, the channel's record (repodata.json's entry); None for wheels."""


@dataclass(frozen=True)
class Environment:
    """A resolved set of packages for one target."""

    name: str
    target: str
    interpreter: Interpreter
    python: str
    """Version (major.minor) of the interpreter."""
    platform: str
    """conda's name of the platform, for example ``linux-64``."""
    conda: tuple[PackageFile, ...] = field(default=())
    wheels: tuple[PackageFile, ...] = field(default=())

    @property
    def digest(self) -> str:
        """SHA-256 over the exact contents; the name and target of the environment are no part of it."""
        contents = {
            "interpreter": self.interpreter,
            "python": self.python,
            "platform": self.platform,
            "files": sorted([file.path.rpartition("/")[2], file.sha256] for file in self.files),
        }
        canonical = json.dumps(contents, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def directory_name(self) -> str:
        """Name of the directory it is installed in: the name and the digest's first twelve digits."""
        return f"{self.name}-{self.digest[:12]}"

    @property
    def files(self) -> tuple[PackageFile, ...]:
        """All packages."""
        return self.conda + self.wheels

    def version_of(self, package: str) -> str | None:
        """Return the version of *package* in this environment, or None."""
        return next((file.version for file in self.files if file.name == package), None)

    def to_json(self) -> str:
        """Return the description as JSON; the same environment gives the same text."""
        document = {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "target": self.target,
            "interpreter": self.interpreter,
            "python": self.python,
            "platform": self.platform,
            "digest": self.digest,
            "conda": [_package_to_dict(file) for file in sorted(self.conda, key=lambda file: file.path)],
            "wheels": [_package_to_dict(file) for file in sorted(self.wheels, key=lambda file: file.path)],
        }
        return json.dumps(document, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, origin: str) -> Environment:
        """Return the environment that *text* describes; *origin* names it in errors.

        Raises ManifestError when the text is no description, of another format version, or its digest does not fit.
        """
        try:
            document = json.loads(text)
            if document["format_version"] != FORMAT_VERSION:
                raise ManifestError(
                    f"{origin} has format version {document['format_version']}, this software reads {FORMAT_VERSION}: "
                    "use the software that came with the bundle."
                )
            environment = cls(
                name=document["name"],
                target=document["target"],
                interpreter=document["interpreter"],
                python=document["python"],
                platform=document["platform"],
                conda=tuple(PackageFile(**entry) for entry in document["conda"]),
                wheels=tuple(PackageFile(**entry) for entry in document["wheels"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ManifestError(
                f"{origin} is no environment description ({error!r}): build the bundle again."
            ) from error
        if environment.digest != document["digest"]:
            raise ManifestError(f"{origin} was changed after it was written (its digest differs): carry it over again.")
        return environment

    @classmethod
    def from_file(cls, path: Path) -> Environment:
        """Read the description at *path*; errors as in :meth:`from_json`."""
        return cls.from_json(path.read_text(encoding="utf-8"), str(path))


def _package_to_dict(file: PackageFile) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "path": file.path,
        "sha256": file.sha256,
        "size": file.size,
        "name": file.name,
        "version": file.version,
    }
    if file.record is not None:
        entry["record"] = file.record
    return entry
