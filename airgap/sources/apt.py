"""Debian packages: apt itself resolves them, for any release, in a private root that needs no rights.

apt checks the signatures of the archives against the distribution's keyring; the hashes that we take come from the
package lists so signed. The host's apt configuration and state are only read.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from airgap.addresses import has_credentials
from airgap.errors import ResolutionError
from airgap.memory import Memory, digest_of
from airgap.network import NetworkOptions
from airgap.sources.apt_archives import (
    KEYRINGS,
    AptRepository,
    Archive,
    find_archives,
    host_entries,
    parse_stanza,
)
from airgap.sources.apt_releases import Releases, addresses_of, read_releases, still_there
from airgap.sources.apt_root import Apt, Root, private_root, update
from airgap.sources.interface import Download, GeneratedFile, Source
from airgap.targets import Target

if TYPE_CHECKING:
    from concurrent.futures import Future

    from airgap.plan import BuildOptions

_AT_ONCE = 4
# 'URI' FILE SIZE [HASH]
_PRINTED_URI = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+)")


@dataclass(frozen=True)
class Answer:
    """What apt said, and the signed lists that it read."""

    downloads: tuple[Download, ...]
    releases: Releases


class AptSource(Source):
    """Debian packages with everything that they depend on."""

    def __init__(
        self,
        cache: Path,
        mirrors: Mapping[str, Sequence[str]],
        network: NetworkOptions | None = None,
        repositories: Sequence[AptRepository] = (),
        keyrings: Path = KEYRINGS,
    ) -> None:
        """Keep apt's private roots below *cache*.

        *mirrors* maps a target's or a release's name, or ``*`` for all others, to the addresses of its archive; the
        first that works is taken. Without one, the host's own apt sources say where the archive is. *repositories* are
        added to it.
        """
        self._cache = cache
        self._mirrors = mirrors
        self._network = network or NetworkOptions()
        self._repositories = repositories
        self._keyrings = keyrings
        self._memory = Memory(cache, "apt")
        self._begun: dict[tuple[str, ...], Future[list[Download]]] = {}

    @contextmanager
    def ahead(self, packages: Sequence[str], targets: Sequence[Target]) -> Iterator[None]:
        """Let apt begin with *packages* for each of *targets*, in its own processes, while the block does other work.

        :meth:`resolve` takes what it finds. The block does not end before apt does.
        """
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            self._begun = {(*packages, target.name): pool.submit(self._resolve, packages, target) for target in targets}
            yield

    def resolve(self, packages: Sequence[str], target: Target) -> list[Download]:
        """Return *packages* and all that they depend on, as on a system on which nothing is installed.

        What apt answered earlier is taken again while the archive has the same signed lists as then. Raises
        ResolutionError when apt is missing, an archive does not answer or is not signed by the distribution, or a
        package is not to be had.
        """
        begun = self._begun.get((*packages, target.name))
        return begun.result() if begun is not None else self._resolve(packages, target)

    def _resolve(self, packages: Sequence[str], target: Target) -> list[Download]:
        answer = self.remembered(packages, target)
        if answer is not None and self.is_current(answer, target):
            return list(answer.downloads)
        with self._fresh_root(target) as root:
            wanted = [*packages, *(name for repository in root.repositories for name in repository.packages)]
            printed = root.apt.run(
                "apt-get", "install", "--print-uris", "--quiet=2", "--no-install-recommends", *wanted
            )
            matches = [match for line in printed.splitlines() if (match := _PRINTED_URI.match(line))]
            shown = root.apt.run("apt-cache", "show", *(_version_of(match["file"]) for match in matches))
            releases = read_releases(root.path / "lists")
        stanzas = parse_stanzas(shown)
        downloads = [_download(match["uri"], stanzas, target, root) for match in matches]
        self._remember(packages, target, root, Answer(tuple(downloads), releases))
        return downloads

    def remembered(self, packages: Sequence[str], target: Target) -> Answer | None:
        """Return what apt answered to the same question last time; None where that is not known."""
        if (found := self._memory.recall(self._question(packages, target))) is None:
            return None
        try:
            downloads = [Download(**{**entry, "mirrors": tuple(entry["mirrors"])}) for entry in found["downloads"]]
            return Answer(tuple(downloads), Releases(**{**found["releases"], "sums": tuple(found["releases"]["sums"])}))
        except (KeyError, TypeError):
            return None

    def is_current(self, answer: Answer, target: Target) -> bool:
        """Ask the archive whether its signed lists, out of which apt made *answer*, are still the same."""
        addresses = addresses_of(self._archives(target)[0], self._repositories_for(target))
        root = self._root_of(target)
        with private_root(root, target, self._network) as configuration:
            return still_there(answer.releases, addresses, Apt(configuration, target), root / "asked")

    def _remember(self, packages: Sequence[str], target: Target, root: Root, answer: Answer) -> None:
        addresses = addresses_of(root.archive, root.repositories)
        # Only of the first archive: others are for when that fails. And no secrets.
        if (
            root.archive == root.archives[0]
            and len(addresses) == len(answer.releases.sums)
            and not any(has_credentials(str(place)) for place in (*root.archives, *root.repositories))
        ):
            self._memory.remember(self._question(packages, target), asdict(answer))

    def _question(self, packages: Sequence[str], target: Target) -> str:
        """Return a digest of all that apt's answer rests on, but for the archive's lists."""
        archives, repositories = self._archives(target), self._repositories_for(target)
        keyrings = {archives[0].keyring, *(repository.signed_by for repository in repositories)}
        return digest_of(
            target.name,
            *_apt_itself(),
            repr(list(packages)),
            repr(archives),
            repr(repositories),
            *(path.read_bytes() if path.is_file() else b"" for path in sorted(keyrings)),
        )

    def _root_of(self, target: Target) -> Path:
        return self._cache / "apt" / target.name

    def _archives(self, target: Target) -> list[Archive]:
        return find_archives(target, self._mirrors, host_entries(), self._keyrings)

    def _repositories_for(self, target: Target) -> list[AptRepository]:
        return [repository for repository in self._repositories if repository.is_for(target)]

    def security_updates(self, statuses: Iterable[Mapping[str, str]], target: Target) -> list[Download]:
        """Return the distribution's security updates for nodes with *statuses*, and what those newly depend on.

        A status has the versions of a node's packages by ``name:architecture``. Raises ResolutionError as
        :meth:`resolve`.
        """
        from airgap.sources.apt_updates import find_updates

        with self._fresh_root(target) as root:
            upgrades, shown = find_updates(root.apt.run, root.path, statuses, target)
        stanzas = parse_stanzas(shown)
        return [_download(upgrade.uri, stanzas, target, root) for upgrade in upgrades]

    def index(self, downloads: Sequence[Download]) -> Iterable[GeneratedFile]:
        """Yield ``Packages`` and ``Release`` for each target's directory."""
        from airgap.index_formats import render_packages, render_release

        directories: dict[str, list[Download]] = {}
        for download in downloads:
            directories.setdefault(download.path.rpartition("/")[0], []).append(download)
        for directory, members in sorted(directories.items()):
            packages = render_packages({member.display_name: render_stanza(member) for member in members})
            yield GeneratedFile(f"{directory}/Packages", packages, "index")
            yield GeneratedFile(f"{directory}/Release", render_release(directory.rpartition("/")[2], packages), "index")

    @contextmanager
    def _fresh_root(self, target: Target) -> Iterator[Root]:
        """Yield apt's private root for *target* with the package lists of today."""
        for program in ("apt-get", "apt-cache"):
            if shutil.which(program) is None:
                raise ResolutionError(f"{program} is not on this host: build the bundle on Debian or Ubuntu.")
        archives, repositories = self._archives(target), self._repositories_for(target)
        path = self._root_of(target)
        with private_root(path, target, self._network) as configuration:
            apt = Apt(configuration, target)
            archive = update(apt, path, archives, repositories)
            yield Root(path, apt, archive, archives, repositories)


def apt_source(options: BuildOptions) -> AptSource:
    """Return the source of Debian packages that *options* lead to."""
    return AptSource(options.cache, options.apt_mirrors, options.network, options.apt_repositories)


def read_package_list(path: Path) -> list[str]:
    """Return the package names in *path*: one a line, ``#`` starts a comment."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def packages_of(root: Path, extra: Sequence[str] = ()) -> list[str]:
    """Return the names of the Debian packages that a bundle of the checkout at *root* has, with *extra* ones."""
    return [*read_package_list(root / "requirements" / "apt.txt"), *extra]


def parse_stanzas(text: str) -> list[dict[str, str]]:
    """Return the stanzas of a ``Packages`` index, fields in their order."""
    return [parse_stanza(stanza) for stanza in re.split(r"\n{2,}", text) if stanza.strip()]


def render_stanza(download: Download) -> str:
    """Return what the ``Packages`` index says of *download*."""
    fields = dict(download.record or {}) | {"Filename": download.display_name}
    # A continuation line brings its own indentation, so an empty first line must not get a trailing blank.
    return "".join(f"{name}: {value}".replace(": \n", ":\n") + "\n" for name, value in fields.items())


def _apt_itself() -> Iterator[str]:
    """Yield what is different when this host has another apt."""
    for program in ("apt-get", "apt-cache"):
        path = shutil.which(program)
        status = os.stat(path) if path else None  # noqa: PTH116  as which() gives it
        yield f"{path} {status and (status.st_size, status.st_mtime_ns)}"


def _version_of(file_name: str) -> str:
    """Return ``name=version`` for a file name as apt prints it (``%3a`` for the epoch's colon)."""
    name, version, _architecture = unquote(file_name).removesuffix(".deb").split("_")
    return f"{name}={version}"


def _download(uri: str, stanzas: Iterable[Mapping[str, str]], target: Target, root: Root) -> Download:
    address = unquote(uri)
    stanza = next((stanza for stanza in stanzas if address.endswith("/" + stanza["Filename"])), None)
    if stanza is None or "SHA256" not in stanza:
        raise ResolutionError(
            f"The archive's signed package list has no SHA-256 for {address.rpartition('/')[2]} ({target.name}): "
            "use another mirror (--apt-mirror)."
        )
    return Download(
        url=uri,
        path=f"mirror/apt/{target.name}/{stanza['Filename'].rpartition('/')[2]}",
        sha256=stanza["SHA256"],
        size=int(stanza["Size"]),
        kind="deb",
        name=stanza["Package"],
        version=stanza["Version"],
        record=stanza,
        mirrors=tuple(
            there
            for other in root.archives
            if other != root.archive and (there := root.archive.same_file(uri, other)) is not None
        ),
    )
