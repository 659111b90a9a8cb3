"""The controller's side of bundles: what is where below ``/opt/pag``, and what is in use there.

Packages are in ``mirror/`` under the paths that bundles give them. Everything else of a bundle is in ``files/``, by its
content, so that the files of several bundles stand side by side. ``bundles/<number>-<digest12>/`` has the lists of the
bundles that were installed last. Standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from airgap.durable import has_content
from airgap.environment import Environment
from airgap.errors import InstallationError, ManifestError
from airgap.manifest import MANIFEST_NAME, PACKAGE_KINDS, Manifest, ManifestFile

KEPT_BUNDLES = 3
"""How many bundles' lists and files are kept unless the operator says otherwise."""
_PACKAGE_SUFFIXES = (".conda", ".tar.bz2", ".whl", ".deb")
_BUNDLE_NAME = re.compile(r"(?P<number>[0-9]{4,})-(?P<digest>[0-9a-f]{12})")


def is_package(file: ManifestFile) -> bool:
    """Return whether *file* is a package, which is kept in the mirror by its path."""
    return file.kind in PACKAGE_KINDS


@dataclass(frozen=True)
class KeptBundle:
    """One of the bundles that were installed last."""

    path: Path
    number: int
    digest: str
    """The first twelve digits of SHA-256 of its SHA256SUMS."""

    @cached_property
    def manifest(self) -> Manifest:
        """Its manifest; raises ManifestError."""
        return Manifest.from_file(self.path / MANIFEST_NAME)


@dataclass(frozen=True)
class UsedEnvironment:
    """An environment that something on the site needs."""

    user: str
    """What needs it, in words."""
    environment: Environment


@dataclass(frozen=True)
class FlowRecord:
    """A version of a deployed flow that the playbooks keep; see ``ansible/module_utils/flow_registry.py``."""

    directory: Path
    content: dict[str, Any]

    @property
    def user(self) -> str:
        """What reports call it."""
        version = f", version {self.content['version']}" if "version" in self.content else ""
        return f"the deployed flow {self.content['flow']}/{self.content['deployment']}{version}"

    @property
    def descriptions(self) -> dict[str, Path]:
        """The descriptions of its environments, by target."""
        return {
            target: self.directory / environment["description"]
            for target, environment in self.content["environments"].items()
        }


@dataclass(frozen=True)
class Site:
    """The directory that bundles are installed in."""

    root: Path

    @property
    def mirror(self) -> Path:
        """The packages and their indexes."""
        return self.root / "mirror"

    @property
    def files(self) -> Path:
        """All other files of bundles, by content."""
        return self.root / "files"

    @property
    def bundles(self) -> Path:
        """The lists of the bundles that were installed last."""
        return self.root / "bundles"

    def stored(self, sha256: str) -> Path:
        """Return where the file with that content is kept, if it is no package."""
        return self.files / sha256[:2] / sha256

    def place_of(self, file: ManifestFile) -> Path:
        """Return where *file* of a bundle is kept."""
        return self.root / file.path if is_package(file) else self.stored(file.sha256)

    def lacking(self, files: Iterable[ManifestFile]) -> list[ManifestFile]:
        """Return those of *files* that are not kept here, or are damaged."""
        listed = list(files)
        with ThreadPoolExecutor() as pool:
            there = list(pool.map(lambda file: has_content(self.place_of(file), file.sha256), listed))
        return [file for file, present in zip(listed, there, strict=True) if not present]

    def installed(self) -> Manifest | None:
        """Return the manifest of the bundle that was installed last, None before the first."""
        path = self.root / MANIFEST_NAME
        return Manifest.from_file(path) if path.is_file() else None

    def kept(self) -> list[KeptBundle]:
        """Return the bundles whose lists are kept, the one that was installed last at the end."""
        if not self.bundles.is_dir():
            return []
        matches = [(path, match) for path in self.bundles.iterdir() if (match := _BUNDLE_NAME.fullmatch(path.name))]
        kept = [KeptBundle(path, int(match["number"]), match["digest"]) for path, match in matches]
        return sorted(kept, key=lambda bundle: bundle.number)

    def manifests(self, keep: int | None = None) -> list[Manifest]:
        """Return the manifests of the last *keep* bundles, or all, and of the installed one."""
        kept = self.kept()
        found = [bundle.manifest for bundle in (kept if keep is None else kept[max(0, len(kept) - keep) :])]
        installed = self.installed()
        return found if installed is None or installed in found else [*found, installed]

    def flow_records(self) -> Iterator[FlowRecord]:
        """Yield the records of all kept versions of deployed flows; raises InstallationError for an unreadable one."""
        flows = self.root / "flows"
        # Flows that an earlier release deployed have one version. When somebody pulled the plug while its record was
        # replaced, that has a name that begins with a dot, and counts.
        for path in sorted([*flows.glob("*/*/record.json"), *flows.glob("*/*/versions/[!.]*/record.json")]):
            try:
                record = FlowRecord(path.parent, json.loads(path.read_text(encoding="utf-8")))
                missing = [description for description in record.descriptions.values() if not description.is_file()]
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise InstallationError(f"{path} is no record of a flow ({error!r}): deploy the flow again.") from error
            if missing:
                raise InstallationError(f"{missing[0]} is missing: deploy the flow again.")
            yield record

    def package_files(self) -> list[Path]:
        """Return the packages in the mirror, of bundles and of packs."""
        return sorted(
            path
            for path in self.mirror.rglob("*")
            if path.name.endswith(_PACKAGE_SUFFIXES) and not path.name.startswith(".") and path.is_file()
        )

    def bundle_environments(self) -> Iterator[UsedEnvironment]:
        """Yield the environments of kept bundles and of the installed one; raises ManifestError."""
        for manifest in self.manifests():
            contents = {file.path: file.sha256 for file in manifest.all_files}
            for environment in manifest.environments:
                path = self._description(environment.path, contents.get(environment.path, ""))
                if path is not None:
                    user = f"the environment {environment.name} of bundle {manifest.bundle_version}"
                    yield UsedEnvironment(user, Environment.from_file(path))

    def flow_environments(self) -> Iterator[UsedEnvironment]:
        """Yield the environments of deployed flows; raises ManifestError, or what :meth:`flow_records` raises."""
        for record in self.flow_records():
            for path in record.descriptions.values():
                yield UsedEnvironment(record.user, Environment.from_file(path))

    def _description(self, path: str, sha256: str) -> Path | None:
        # Bundles that were installed before files/ was there have their descriptions only under their names.
        for place in (self.stored(sha256), self.root / path):
            if sha256 and has_content(place, sha256):
                return place
        return None


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of the unpacked bundle in *directory*; raises ManifestError when there is none."""
    try:
        return Manifest.from_file(directory / MANIFEST_NAME)
    except OSError as error:
        raise ManifestError(
            f"{directory} is no unpacked bundle ({MANIFEST_NAME}: {error.strerror}): unpack it and run this there."
        ) from error
