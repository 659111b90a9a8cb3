"""What of a bundle a site has already, and what must travel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from airgap.errors import ManifestError, SignatureError, UsageError
from airgap.hashing import sha256_of_bytes
from airgap.have import Have, HavePackage
from airgap.manifest import PACKAGE_KINDS, ManifestFile
from airgap.modules import needed_modules
from airgap.signature import HAVE_NAMESPACE, verify_signature

# What a bundle is read and installed with: there before it can rely on anything.
_ALWAYS_TRAVEL = frozenset({"README.md", "install-pag-controller.sh", "sbom.cdx.json"})
# What install-pag-controller.sh and people run in the unpacked bundle before the site's files complete it.
_FIRST_MODULES = ("airgap.controller", "airgap.verify")


@dataclass(frozen=True)
class Base:
    """The state of a site that a delta is built against."""

    have: Have
    digest: str
    """SHA-256 of its have.json."""

    @cached_property
    def _packages(self) -> dict[str, HavePackage]:
        return {package.path: package for package in self.have.packages}

    def package(self, path: str, sha256: str) -> HavePackage | None:
        """Return the package that the site has at *path* with that content, or None."""
        package = self._packages.get(path)
        return package if package is not None and package.sha256 == sha256 else None

    def has(self, file: ManifestFile) -> bool:
        """Return whether the site has *file*."""
        if file.kind in PACKAGE_KINDS:
            return self.package(file.path, file.sha256) is not None
        return file.sha256 in self.have.contents


def split(
    files: Iterable[ManifestFile], base: Base | None, generated: Mapping[str, bytes]
) -> tuple[list[ManifestFile], list[ManifestFile]]:
    """Return those of *files* that travel, and those that are relied on; without a *base*, all travel.

    *generated* has the contents of the files that are no packages, by path.
    """
    listed = list(files)
    if base is None:
        return listed, []
    always = _ALWAYS_TRAVEL | needed_modules(_FIRST_MODULES, generated)
    relied_on = [file for file in listed if file.path not in always and base.has(file)]
    paths = {file.path for file in relied_on}
    return [file for file in listed if file.path not in paths], relied_on


def node_statuses(base: Base | None, target: str) -> list[dict[str, str]]:
    """Return the Debian packages of each kind of node with *target*: versions by ``name:architecture``.

    Raises UsageError when they are not known.
    """
    if base is None:
        raise UsageError(
            "--system-updates needs to know the nodes: write have.json with have.yml, give it with --since."
        )
    statuses = [status for system in base.have.systems if system.target == target for status in system.statuses()]
    if not statuses:
        raise UsageError(
            f"have.json tells of no nodes with {target}, so their system updates are not known: run have.yml with an "
            "inventory that has such nodes, or leave that --target or --system-updates out."
        )
    return statuses


def read_base(path: Path, signers: Path | None = None) -> Base:
    """Return the state in the have.json at *path*.

    With *signers*, a file of allowed signers, the signature ``<path>.sig`` must be one of theirs. Raises UsageError
    when a file cannot be read, SignatureError when the signature does not count, and ManifestError when it is no
    have.json.
    """
    content = _read(path, "write it on the controller with have.yml, and name it with --since")
    if signers is not None:
        _read(signers, "name the file of allowed signers with --have-signers")
        signature = path.with_name(f"{path.name}.sig")
        advice = "carry it over too: have.yml writes it where the site has a key"
        try:
            verify_signature(content, _read(signature, advice), signers, HAVE_NAMESPACE)
        except SignatureError as error:
            raise SignatureError(f"{path} is not to be trusted: {error}") from error
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} is no text: write it again with have.yml, and carry it over unchanged.") from error
    return Base(Have.from_json(text, str(path)), sha256_of_bytes(content))


def _read(path: Path, advice: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): {advice}.") from error
