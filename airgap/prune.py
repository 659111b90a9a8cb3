"""Removes what neither the last bundles nor deployed flows use from the controller's ``/opt/pag``.

Standard library only.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from airgap.durable import remove
from airgap.errors import InstallationError
from airgap.mirror_index import refresh
from airgap.site import KEPT_BUNDLES, Site

_DOOMED = ".removed"


@dataclass(frozen=True)
class Prunable:
    """What is not used any more."""

    packages: tuple[Path, ...]
    files: tuple[Path, ...]
    """Other files: of old bundles, and descriptions of environments."""
    directories: tuple[Path, ...]
    """Old toolkits, environments of the controller with their cache, and lists of bundles."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Everything that would be removed."""
        return self.packages + self.files + self.directories

    def figures(self) -> Figures:
        """Return how much removing it would be."""
        links: Counter[tuple[int, int]] = Counter()
        sizes: dict[tuple[int, int], tuple[int, int]] = {}
        count = 0
        for path in _files_of(self.paths):
            status = path.lstat()
            inode = (status.st_dev, status.st_ino)
            links[inode] += 1
            sizes[inode] = (status.st_nlink, status.st_size)
            count += 1
        freed = sum(size for inode, (names, size) in sizes.items() if names == links[inode])
        return Figures(count, freed, sum(size for _, size in sizes.values()) - freed)


@dataclass(frozen=True)
class Figures:
    """How much is removed."""

    files: int
    freed: int
    """Bytes that become free."""
    held: int
    """Bytes that stay on the disk because files outside, of an unpacked bundle for example, share them."""


def find_unused(site: Site, keep: int = KEPT_BUNDLES) -> Prunable:
    """Return what is used neither by the last *keep* bundles, the installed one among them, nor by deployed flows.

    Raises AirgapError when no bundle is installed, or a record or description of what is in use cannot be read.
    """
    installed = site.installed()
    if installed is None:
        raise InstallationError(f"There is no bundle below {site.root}: run install-pag-controller.sh.")
    if keep < 1:
        raise InstallationError(f"keep_bundles is {keep}: keep at least 1, the bundle that is installed.")
    kept = [file for manifest in site.manifests(keep) for file in manifest.all_files]
    used = {site.place_of(file) for file in kept}
    used |= {site.root / environment.path for environment in installed.environments}
    for flow in site.flow_records():
        used |= {site.root / "environments" / description.name for description in flow.descriptions.values()}
    used |= {site.mirror / package.path for flow in site.flow_environments() for package in flow.environment.files}
    environments = list(_others(site.root / "envs", site.root / "controller-env", "controller-*"))
    files = [*site.files.glob("??/*"), *(site.root / "environments").glob("*.json")]
    return Prunable(
        packages=tuple(path for path in site.package_files() if path not in used),
        files=tuple(sorted(path for path in files if path not in used)),
        directories=(
            *(bundle.path for bundle in site.kept()[:-keep]),
            *_others(site.root / "toolkit", site.root / "toolkit" / "current", "[0-9a-f]*"),
            # Environments share files with the cache, which would stay there; the one in use keeps its own.
            *(path for path in (site.root / "cache",) if environments and path.is_dir()),
            *environments,
            *site.root.glob(f".*{_DOOMED}"),
            *site.root.glob(f"*/.*{_DOOMED}"),
        ),
    )


def prune(site: Site, unused: Prunable) -> None:
    """Remove what is *unused*; interrupted, it can be repeated."""
    # First, so that no index names a package that is gone.
    refresh(site.mirror, without=unused.packages)
    for path in (*unused.packages, *unused.files):
        remove(path, site.root)
    for path in unused.directories:
        # Under its own name, half an environment would pass for a whole one.
        doomed = path if path.name.endswith(_DOOMED) else path.with_name(f".{path.name}{_DOOMED}")
        if doomed != path:
            path.rename(doomed)
        shutil.rmtree(doomed)


def _others(directory: Path, link: Path, pattern: str) -> Iterator[Path]:
    """Yield the directories that *link* does not point at."""
    if link.exists():
        current = link.resolve()
        yield from sorted(
            path for path in directory.glob(pattern) if path.is_dir() and not path.is_symlink() and path != current
        )


def _files_of(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            for parent, _, names in os.walk(path):
                yield from (Path(parent) / name for name in names)
        else:
            yield path
