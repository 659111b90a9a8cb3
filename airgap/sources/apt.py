"""Debian packages: apt itself resolves them, for any release, in a private root that needs no rights.

apt checks the signatures of the archives against the distribution's keyring; the hashes that we take come from the
package lists so signed. The host's apt configuration and state are only read.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from airgap.addresses import has_credentials, redact, redact_text
from airgap.errors import ResolutionError
from airgap.index_formats import render_packages, render_release
from airgap.memory import Memory, digest_of
from airgap.network import Network, NetworkOptions
from airgap.sources.apt_archives import (
    APT_DIRECTORY,
    KEYRINGS,
    AptRepository,
    Archive,
    find_archives,
    host_entries,
    parse_stanza,
)
from airgap.sources.apt_releases import Releases, addresses_of, read_releases, still_there
from airgap.sources.apt_updates import find_updates
from airgap.sources.interface import Download, GeneratedFile, Source
from airgap.targets import Target

if TYPE_CHECKING:
    from airgap.plan import BuildOptions

# 'URI' FILE SIZE [HASH]
_PRINTED_URI = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+)")
# What apt says of a package that cannot be installed.
_UNMET = re.compile(r" \S+ : \w+: ")
# Of the host's configuration, only how to reach the network counts (proxies, certificates).
_NETWORK_OPTION = re.compile(r"Acquire::(?:https?::|ForceIPv).*")
_PROXY_OPTION = re.compile(r'Acquire::(https?)::Proxy "([^"]+)";', re.IGNORECASE)


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
        reach: Network | None = None,
    ) -> None:
        """Keep apt's private roots below *cache*.

        *mirrors* maps a target's or a release's name, or ``*`` for all others, to the addresses of its archive; the
        first that works is taken. Without one, the host's own apt sources say where the archive is. *repositories* are
        added to it. *reach* is how archives are asked whether they have changed; without it, apt is asked each time.
        """
        self._cache = cache
        self._mirrors = mirrors
        self._network = network or NetworkOptions()
        self._repositories = repositories
        self._keyrings = keyrings
        self._reach = reach
        self._memory = Memory(cache, "apt")

    def resolve(self, packages: Sequence[str], target: Target) -> list[Download]:
        """Return *packages* and all that they depend on, as on a system on which nothing is installed.

        What apt answered earlier is taken again while the archive has the same signed lists as then. Raises
        ResolutionError when apt is missing, an archive does not answer or is not signed by the distribution, or a
        package is not to be had.
        """
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
        if self._reach is None or (found := self._memory.recall(self._question(packages, target))) is None:
            return None
        try:
            downloads = [Download(**{**entry, "mirrors": tuple(entry["mirrors"])}) for entry in found["downloads"]]
            return Answer(tuple(downloads), Releases(**{**found["releases"], "sums": tuple(found["releases"]["sums"])}))
        except (KeyError, TypeError):
            return None

    def is_current(self, answer: Answer, target: Target) -> bool:
        """Ask the archive whether its signed lists, out of which apt made *answer*, are still the same."""
        assert self._reach is not None  # noqa: S101  who may not be asked has no answers
        archive, repositories = self._archives(target)[0], self._repositories_for(target)
        return still_there(answer.releases, addresses_of(archive, repositories), self._reach)

    def _remember(self, packages: Sequence[str], target: Target, root: _Root, answer: Answer) -> None:
        addresses = addresses_of(root.archive, root.repositories)
        # Only of the first archive: others are for when that fails. And no secrets.
        if (
            self._reach is not None
            and root.archive == root.archives[0]
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

    def _archives(self, target: Target) -> list[Archive]:
        return find_archives(target, self._mirrors, host_entries(), self._keyrings)

    def _repositories_for(self, target: Target) -> list[AptRepository]:
        return [repository for repository in self._repositories if repository.is_for(target)]

    def security_updates(self, statuses: Iterable[Mapping[str, str]], target: Target) -> list[Download]:
        """Return the distribution's security updates for nodes with *statuses*, and what those newly depend on.

        A status has the versions of a node's packages by ``name:architecture``. Raises ResolutionError as
        :meth:`resolve`.
        """
        with self._fresh_root(target) as root:
            upgrades, shown = find_updates(root.apt.run, root.path, statuses, target)
        stanzas = parse_stanzas(shown)
        return [_download(upgrade.uri, stanzas, target, root) for upgrade in upgrades]

    def index(self, downloads: Sequence[Download]) -> Iterable[GeneratedFile]:
        """Yield ``Packages`` and ``Release`` for each target's directory."""
        directories: dict[str, list[Download]] = {}
        for download in downloads:
            directories.setdefault(download.path.rpartition("/")[0], []).append(download)
        for directory, members in sorted(directories.items()):
            packages = render_packages({member.display_name: render_stanza(member) for member in members})
            yield GeneratedFile(f"{directory}/Packages", packages, "index")
            yield GeneratedFile(f"{directory}/Release", render_release(directory.rpartition("/")[2], packages), "index")

    @contextmanager
    def _fresh_root(self, target: Target) -> Iterator[_Root]:
        """Yield apt's private root for *target* with the package lists of today."""
        for program in ("apt-get", "apt-cache"):
            if shutil.which(program) is None:
                raise ResolutionError(f"{program} is not on this host: build the bundle on Debian or Ubuntu.")
        archives, repositories = self._archives(target), self._repositories_for(target)
        path = self._cache / "apt" / target.name
        with _private_root(path, target, self._network) as configuration:
            apt = _Apt(configuration, target)
            archive = _update(apt, path, archives, repositories)
            yield _Root(path, apt, archive, archives, repositories)


def apt_source(options: BuildOptions, network: Network) -> AptSource:
    """Return the source of Debian packages that *options* and *network* lead to."""
    return AptSource(options.cache, options.apt_mirrors, options.network, options.apt_repositories, reach=network)


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


class _Apt:
    """Runs apt's programs with a private configuration."""

    def __init__(self, configuration: Path, target: Target) -> None:
        self._configuration = configuration
        self._target = target

    def run(
        self, program: str, *arguments: str, advice: str = "check the names in requirements/apt.txt and extra-debs."
    ) -> str:
        """Return what *program* prints; raise ResolutionError with apt's own reason, and *advice*, when it fails."""
        environment = os.environ | {"APT_CONFIG": str(self._configuration), "LC_ALL": "C.UTF-8"}
        completed = subprocess.run(
            [program, *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if completed.returncode != 0:
            complaints = [line.strip() for line in completed.stdout.splitlines() if _UNMET.match(line)]
            complaints += [line for line in completed.stderr.splitlines() if line.startswith(("E:", "W: GPG"))]
            reason = " ".join(complaints or completed.stderr.splitlines()[-3:]) or f"exit code {completed.returncode}"
            advice = (
                "the mirror is not the distribution's, or this host's keyring is too old: update the keyring package."
                if "NO_PUBKEY" in reason
                else "check the network and the address (--apt-mirror)."
                if arguments[0] == "update"
                else advice
            )
            raise ResolutionError(
                f"apt cannot resolve packages for {self._target.name} ({redact_text(reason)}): {advice}"
            )
        return completed.stdout


@dataclass(frozen=True)
class _Root:
    """apt's private root with package lists in it."""

    path: Path
    apt: _Apt
    archive: Archive
    """Where the lists are from."""
    archives: Sequence[Archive]
    """All that have the same packages."""
    repositories: Sequence[AptRepository]


def _update(apt: _Apt, root: Path, archives: Sequence[Archive], repositories: Sequence[AptRepository]) -> Archive:
    """Fetch the package lists of the first of *archives* that works, and of all *repositories*; return that archive."""
    for repository in repositories:
        if not repository.signed_by.is_file():
            raise ResolutionError(
                f"The keyring {repository.signed_by} of the repository {redact(repository.uri)} is not there: put it "
                "there, or correct signed-by."
            )
    preferences = root / "etc" / "preferences"
    preferences.write_bytes(b"")
    refusals: list[ResolutionError] = []
    for archive in archives:
        sources = "\n".join([str(archive), *map(str, repositories)])
        (root / "etc" / "sources.list.d" / "archive.sources").write_text(sources, encoding="utf-8")
        try:
            apt.run("apt-get", "update", "--quiet")
        except ResolutionError as error:
            refusals.append(error)
        else:
            stanzas = [repository.preferences(_pin(apt, repository)) for repository in repositories]
            preferences.write_text("\n".join(stanzas), encoding="utf-8")
            return archive
    if len(refusals) == 1:
        raise refusals[0]
    tried = ", ".join(redact(archive.uri) for archive in archives)
    raise ResolutionError(f"None of the archives {tried} can be used; of the last: {refusals[-1]}")


def _pin(apt: _Apt, repository: AptRepository) -> str:
    """Return what tells *repository* from others in apt's preferences: what its own Release file says of it."""
    fields = ("REPO_URI", "RELEASE", "ORIGIN", "LABEL", "SUITE", "CODENAME")
    line_format = "\t".join(f"$({field})" for field in fields)
    for line in apt.run("apt-get", "indextargets", "--format", line_format, "Created-By: Packages").splitlines():
        uri, release, *values = line.split("\t")
        # apt writes file:/ where we may have file:///, and a slash at the end.
        if release == repository.suite and _plain(uri) == _plain(repository.uri):
            # What the Release file does not say stays as it stands in the format.
            said = [(key, value) for key, value in zip("olan", values, strict=True) if not value.startswith("$(")]
            words = [f"{key}={value}" for key, value in said if value]
            return f"release {','.join(words)}"
    raise ResolutionError(f"The repository {redact(repository.uri)} has no package lists: correct its components.")


def _plain(uri: str) -> str:
    return re.sub(r"^file:/+", "file:/", uri).rstrip("/")


@contextmanager
def _private_root(root: Path, target: Target, network: NetworkOptions) -> Iterator[Path]:
    """Prepare apt's private root, hold it against other builders, and yield the configuration's path."""
    for directory in ("lists/partial", "archives/partial", "etc/sources.list.d", "etc/apt.conf.d", "etc/preferences.d"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    # Addresses of archives and proxies may hold passwords.
    root.chmod(0o700)
    with (root / "builder.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (root / "status").write_bytes(b"")
        options = {
            "Dir": root,
            "Dir::Etc": root / "etc",
            **_login_options(),
            "Dir::State": root,
            "Dir::State::status": root / "status",
            "Dir::State::lists": root / "lists",
            "Dir::Cache": root,
            "Dir::Log": root,
            "APT::Architecture": target.debian_architecture,
            "APT::Architectures": target.debian_architecture,
            # apt would drop to its own user, who may not read a cache in somebody's home.
            "APT::Sandbox::User": "",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        lines = [f'{name} "{value}";\n' for name, value in options.items()]
        configuration = root / "apt.conf"
        configuration.write_text("".join([*lines, *_network_options(network)]), encoding="utf-8")
        configuration.chmod(0o600)
        yield configuration


def _login_options() -> dict[str, Path]:
    """Return where the host's apt has logins to archives, as far as this user may read them."""
    single, parts = APT_DIRECTORY / "auth.conf", APT_DIRECTORY / "auth.conf.d"
    options = {"Dir::Etc::netrc": single} if os.access(single, os.R_OK) else {}
    if os.access(parts, os.R_OK | os.X_OK) and all(os.access(path, os.R_OK) for path in parts.iterdir()):
        options["Dir::Etc::netrcparts"] = parts
    return options


def _network_options(network: NetworkOptions) -> list[str]:
    lines = [line + "\n" for line in _host_configuration() if _NETWORK_OPTION.match(line)]
    if network.proxy:
        lines = [line for line in lines if "::proxy" not in line.lower()]
        lines += [f'Acquire::{scheme}::Proxy "{network.proxy}";\n' for scheme in ("http", "https")]
        hosts = [(scheme, host) for scheme in ("http", "https") for host in network.no_proxy]
        lines += [f'Acquire::{scheme}::Proxy::{host} "DIRECT";\n' for scheme, host in hosts]
    if network.ca_file:
        lines.append(f'Acquire::https::CAInfo "{network.ca_file}";\n')
    return lines


def host_proxies() -> dict[str, str]:
    """Return the proxies that the host's apt is configured for, by scheme."""
    matches = [match for line in _host_configuration() if (match := _PROXY_OPTION.fullmatch(line))]
    proxies = {match[1].lower(): match[2] for match in matches if "://" in match[2]}
    return {"https": proxies["http"]} | proxies if "http" in proxies else proxies


def _host_configuration() -> list[str]:
    if shutil.which("apt-config") is None:
        return []
    return subprocess.run(["apt-config", "dump"], capture_output=True, text=True).stdout.splitlines()


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


def _download(uri: str, stanzas: Iterable[Mapping[str, str]], target: Target, root: _Root) -> Download:
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
