"""The checkout's own files that travel: playbooks, demo flows, the Python package, the installer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from airgap.addresses import without_credentials
from airgap.errors import ResolutionError
from airgap.manifest import Kind
from airgap.sources.interface import GeneratedFile

INSTALLER_NAME = "install-pag-controller.sh"
_SINGLE_FILES: tuple[tuple[str, Kind], ...] = (
    ("README.md", "document"),
    (INSTALLER_NAME, "software"),
)
# Of the documents, those that an operator needs who has nothing but the bundle.
_OPTIONAL_FILES: tuple[tuple[str, Kind], ...] = (
    ("LICENSE", "document"),
    ("CHANGELOG.md", "document"),
    ("docs/operations.md", "document"),
    ("docs/security.md", "document"),
    ("docs/hardening.md", "document"),
    ("docs/bundle-format.md", "document"),
)
_TREES: tuple[tuple[str, Kind], ...] = (("ansible", "ansible"), ("airgap", "software"))
# What an operator's or a developer's work leaves in a checkout: inventories and secrets never travel.
_SKIPPED_NAMES = frozenset({"inventory.yml", "secrets.yml", "packed-env.tar"})
# Packs of a flow for one target each.
_PACK = re.compile(r"packed-env\..+\.tar")
# The builder makes this directory; one in the checkout is a developer's.
_COLLECTIONS = "ansible/collections"
# What names package servers; their passwords and tokens, which tools and authors leave in it, do not travel.
_WITH_ADDRESSES = frozenset({"pixi.lock", "pixi.toml", "pyproject.toml", "requirements.in", "requirements.txt"})
# Control characters, and Unicode's separators of lines and paragraphs.
_UNWANTED_CATEGORIES = frozenset({"Cc", "Zl", "Zp"})
_SKIPPED_SUFFIXES = (".pyc", ".retry", ".orig", ".rej", ".swp", "~")


def checkout_files(root: Path) -> Iterator[GeneratedFile]:
    """Yield the files of the checkout at *root* that every bundle has.

    Raises ResolutionError when one of them is missing.
    """
    for name, kind in (*_SINGLE_FILES, *_OPTIONAL_FILES):
        path = root / name
        if path.is_file():
            yield _file(path, name, kind)
        elif (name, kind) in _SINGLE_FILES:
            raise ResolutionError(f"{path} is missing: build the bundle from a complete checkout.")
    for name, kind in _TREES:
        yield from _tree(root / name, name, kind)


def flow_files(directory: Path) -> Iterator[GeneratedFile]:
    """Yield the files of the flow at *directory*, below ``flows/<its name>/``."""
    yield from _tree(directory, f"flows/{directory.name}", "flow")


def _tree(directory: Path, prefix: str, kind: Kind) -> Iterator[GeneratedFile]:
    for path in sorted(directory.iterdir()):
        if path.name in _SKIPPED_NAMES or _PACK.fullmatch(path.name) or path.name.startswith((".", "__pycache__")):
            continue
        if path.name.endswith(_SKIPPED_SUFFIXES) or f"{prefix}/{path.name}" == _COLLECTIONS:
            continue
        if path.is_symlink():
            raise ResolutionError(f"{path} is a symbolic link, which a bundle cannot hold: put the file itself there.")
        if any(unicodedata.category(character) in _UNWANTED_CATEGORIES for character in path.name):
            raise ResolutionError(
                f"{str(path)!r} has a control character in its name, which programs read as something else: rename it."
            )
        if path.is_dir():
            yield from _tree(path, f"{prefix}/{path.name}", kind)
        else:
            yield _file(path, f"{prefix}/{path.name}", kind)


def _file(path: Path, name: str, kind: Kind) -> GeneratedFile:
    content = path.read_bytes()
    if path.name in _WITH_ADDRESSES:
        content = without_credentials(content.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
    return GeneratedFile(name, content, kind, executable=bool(path.stat().st_mode & 0o100))
