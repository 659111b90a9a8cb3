"""Single Ansible collections, out of the wheel of the ``ansible`` distribution, which holds about a hundred of them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

from airgap.errors import ResolutionError
from airgap.sources.interface import GeneratedFile

COLLECTIONS = ("ansible.posix", "community.crypto", "community.postgresql")
"""What the playbooks use; each adds about a megabyte."""

_ROOT = "ansible_collections"
# Of a collection, what Ansible reads at run time, and what its licence wants beside it.
_KEPT_DIRECTORIES = frozenset({"plugins", "meta", "roles", "LICENSES"})
_KEPT_FILES = frozenset({"MANIFEST.json", "FILES.json", "LICENSE", "COPYING", "PSF-license.txt", "README.md"})


def extract_collections(wheel: Path, names: tuple[str, ...] = COLLECTIONS) -> Iterator[GeneratedFile]:
    """Yield the files of the collections *names* in *wheel*, for ``ansible/collections/`` of the bundle.

    Raises ResolutionError when the wheel lacks one of them.
    """
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.startswith(f"{_ROOT}/") and not name.endswith("/")]
        for name in names:
            prefix = f"{_ROOT}/{name.replace('.', '/')}/"
            kept = sorted(member for member in members if member.startswith(prefix) and _is_kept(member[len(prefix) :]))
            if f"{prefix}MANIFEST.json" not in kept:
                raise ResolutionError(f"{wheel.name} has no collection {name}: change requirements/collections.in.")
            information = json.loads(archive.read(f"{prefix}MANIFEST.json"))["collection_info"]
            for member in kept:
                yield GeneratedFile(
                    path=f"ansible/collections/{member}",
                    content=archive.read(member),
                    kind="ansible",
                    name=name,
                    version=information["version"],
                    licence=", ".join(information.get("license") or []) or None,
                )


def _is_kept(path: str) -> bool:
    first, separator, _ = path.partition("/")
    return first in (_KEPT_DIRECTORIES if separator else _KEPT_FILES)
