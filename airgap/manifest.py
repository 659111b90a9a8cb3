"""The bundle's manifest: the contract between the builder and what installs the bundle.

``manifest.json`` names every file of the bundle but itself, ``SHA256SUMS`` and its signature. One writer, one reader.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from airgap.errors import ManifestError

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
CHECKSUMS_NAME = "SHA256SUMS"
BUNDLE_DIRECTORY = "pag-software-bundle"

Kind = Literal["conda", "wheel", "deb", "index", "environment", "ansible", "flow", "software", "document"]
PACKAGE_KINDS: frozenset[Kind] = frozenset({"conda", "wheel", "deb"})
"""What is compressed already, and is kept in the mirror by its path."""


@dataclass(frozen=True)
class ManifestFile:
    """One file of the bundle."""

    path: str
    """Below the bundle's root, with forward slashes."""
    sha256: str
    size: int
    """Bytes."""
    kind: Kind
    name: str | None = None
    """Of the package, for packages."""
    version: str | None = None
    licence: str | None = None
    """As the package itself states it; None where it states none that a program could read."""
    executable: bool = False


@dataclass(frozen=True)
class ManifestTarget:
    """A target that the bundle was built for."""

    name: str
    release: str
    codename: str
    architecture: str
    python: str


@dataclass(frozen=True)
class ManifestEnvironment:
    """An environment of the bundle, for one target."""

    name: str
    target: str
    interpreter: str
    digest: str
    path: str
    """Of its description, below the bundle's root."""
    flow: str | None = None
    """Path of the flow directory it belongs to, below the bundle's root; None for prefect, controller and toolkit."""
    prefect_version: str | None = None


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds and what it was made for."""

    bundle_version: str
    created_by: str
    interpreter: str
    """``conda`` or ``system``: what Python is in this bundle's environments."""
    interpreter_reason: str
    """Why, in one sentence."""
    targets: tuple[ManifestTarget, ...]
    environments: tuple[ManifestEnvironment, ...]
    files: tuple[ManifestFile, ...]
    """What travels."""
    base: str | None = None
    """SHA-256 of the have.json that a delta was built against; None for a bundle that holds everything."""
    relies_on: tuple[ManifestFile, ...] = ()
    """What belongs to the state that the bundle describes, but does not travel: the site has it."""

    @property
    def all_files(self) -> tuple[ManifestFile, ...]:
        """The complete state: what travels and what the site has."""
        return self.files + self.relies_on

    def to_json(self) -> str:
        """Return the manifest as JSON; the same manifest gives the same text."""
        document = {"format_version": FORMAT_VERSION} | asdict(self)
        for key in ("files", "relies_on"):
            document[key] = sorted(document[key], key=lambda entry: entry["path"])
        if self.base is None:
            del document["base"], document["relies_on"]
        return json.dumps(document, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, origin: str) -> Manifest:
        """Return the manifest in *text*; *origin* names it in errors.

        Raises ManifestError when the text is no manifest or of another format version.
        """
        try:
            document = json.loads(text)
            if document["format_version"] != FORMAT_VERSION:
                raise ManifestError(
                    f"{origin} has format version {document['format_version']}, this software reads {FORMAT_VERSION}: "
                    "use the software that came with the bundle."
                )
            return cls(
                bundle_version=document["bundle_version"],
                created_by=document["created_by"],
                interpreter=document["interpreter"],
                interpreter_reason=document["interpreter_reason"],
                targets=tuple(ManifestTarget(**entry) for entry in document["targets"]),
                environments=tuple(ManifestEnvironment(**entry) for entry in document["environments"]),
                files=tuple(ManifestFile(**entry) for entry in document["files"]),
                base=document.get("base"),
                relies_on=tuple(ManifestFile(**entry) for entry in document.get("relies_on", ())),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ManifestError(f"{origin} is no bundle manifest ({error!r}): build the bundle again.") from error

    @classmethod
    def from_file(cls, path: Path) -> Manifest:
        """Read the manifest at *path*; errors as in :meth:`from_json`."""
        return cls.from_json(path.read_text(encoding="utf-8"), str(path))
