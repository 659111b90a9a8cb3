"""Where a distribution's archive is, as the host's own apt configuration says.

Reads both formats of sources.list(5): one line per repository, and deb822 stanzas.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from airgap.errors import ResolutionError
from airgap.targets import RELEASES, Release, Target

_COMPONENTS = {"debian": ("main",), "ubuntu": ("main", "universe")}
# Keyring with the distribution's archive keys, and the package that installs it (in Debian and in Ubuntu).
_KEYRINGS = {
    "debian": ("debian-archive-keyring.gpg", "debian-archive-keyring"),
    "ubuntu": ("ubuntu-archive-keyring.gpg", "ubuntu-keyring"),
}
KEYRINGS = Path("/usr/share/keyrings")
APT_DIRECTORY = Path("/etc/apt")
_ALIASES = ("stable", "oldstable")
# What the builder's downloader can fetch; apt itself knows more.
_SCHEMES = ("http://", "https://")


@dataclass(frozen=True)
class SourceEntry:
    """One repository of the host's apt configuration."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""
    """Path or text of the key that the entry demands; empty where it demands none."""


@dataclass(frozen=True)
class AptRepository:
    """A repository that the operator adds to the distribution's."""

    uri: str
    suite: str
    """A suite, or a path with a slash at its end (a flat repository, without components)."""
    signed_by: Path
    """Keyring of the repository's own keys."""
    components: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    """What to carry from there. Of other packages, the distribution's go before this repository's."""
    targets: tuple[str, ...] = ()
    """Names of targets or releases that it is for; empty for all."""

    def is_for(self, target: Target) -> bool:
        """Return whether nodes of *target* take packages from there."""
        return not self.targets or target.name in self.targets or target.release.name in self.targets

    def __str__(self) -> str:
        """Return the deb822 stanza for apt."""
        components = f"Components: {' '.join(self.components)}\n" if self.components else ""
        return f"Types: deb\nURIs: {self.uri}\nSuites: {self.suite}\n{components}Signed-By: {self.signed_by}\n"

    def preferences(self, pin: str) -> str:
        """Return stanzas of apt_preferences(5): the distribution's packages go first, but for those wanted.

        *pin* says which repository is meant, in the words of apt_preferences(5).
        """
        if not self.packages:
            return ""
        return (
            f"Package: {' '.join(self.packages)}\nPin: {pin}\nPin-Priority: 990\n\n"
            f"Package: *\nPin: {pin}\nPin-Priority: 100\n"
        )


@dataclass(frozen=True)
class Archive:
    """The addresses of one release's repositories, and the keyring that signs them."""

    release: Release
    uri: str
    security_uri: str
    keyring: Path

    def same_file(self, uri: str, other: Archive) -> str | None:
        """Return where *other* has the file that is at *uri* here; None when it is not one of this archive's."""
        for here, there in ((self.uri, other.uri), (self.security_uri, other.security_uri)):
            for prefix in (f"{here}/", f"{here}/".replace("file:///", "file:/")):  # apt writes it so
                if uri.startswith(prefix):
                    return f"{there}/{uri.removeprefix(prefix)}"
        return None

    @property
    def suites(self) -> list[tuple[str, str]]:
        """The repositories: address and suite."""
        codename = self.release.codename
        return [
            (self.uri, codename),
            (self.uri, f"{codename}-updates"),
            (self.security_uri, f"{codename}-security"),
        ]

    def __str__(self) -> str:
        """Return the deb822 stanzas for apt."""
        components = " ".join(_COMPONENTS[self.release.distribution])
        return "\n".join(
            f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {components}\nSigned-By: {self.keyring}\n"
            for uri, suite in self.suites
        )


def parse_one_line(text: str) -> Iterator[SourceEntry]:
    """Yield the binary repositories of a ``*.list`` file."""
    for line in text.splitlines():
        match = re.fullmatch(r"deb\s+(?:\[([^]]*)\]\s*)?(\S+)\s+(\S+)((?:\s+\S+)*)", line.partition("#")[0].strip())
        if match is None:
            continue
        options = dict(option.split("=", 1) for option in (match[1] or "").split() if "=" in option)
        yield SourceEntry(match[2].rstrip("/"), match[3], tuple(match[4].split()), options.get("signed-by", ""))


def parse_deb822(text: str) -> Iterator[SourceEntry]:
    """Yield the enabled binary repositories of a ``*.sources`` file, one for each address and suite."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        fields = parse_stanza(stanza)
        if "deb" not in fields.get("Types", "").split() or fields.get("Enabled", "yes").lower() in ("no", "false"):
            continue
        for uri in fields.get("URIs", "").split():
            for suite in fields.get("Suites", "").split():
                components = tuple(fields.get("Components", "").split())
                yield SourceEntry(uri.rstrip("/"), suite, components, fields.get("Signed-By", ""))


def parse_stanza(text: str) -> dict[str, str]:
    """Return the fields of one deb822 stanza in their order; continuation lines keep their line ends."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line[:1].isspace() and name:
            fields[name] += "\n" + line
        elif ":" in line:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    return fields


def host_entries(apt_directory: Path = APT_DIRECTORY) -> list[SourceEntry]:
    """Return the repositories that the host's apt is configured for."""
    entries: list[SourceEntry] = []
    parts = apt_directory / "sources.list.d"
    for path in (apt_directory / "sources.list", *sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))):
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            entries.extend(parse_deb822(text) if path.suffix == ".sources" else parse_one_line(text))
    return [entry for entry in map(_resolve_mirror_file, entries) if entry.uri.startswith(_SCHEMES)]


def find_archives(
    target: Target,
    mirrors: Mapping[str, Sequence[str]],
    entries: Iterable[SourceEntry],
    keyrings: Path = KEYRINGS,
) -> list[Archive]:
    """Return the archives that hold *target*'s packages, in the order to try.

    *mirrors* maps a target's or a release's name, or ``*`` for all others, to the addresses of archives; it goes before
    the host's own *entries*. Entries of any release of the target's distribution will do: a distribution keeps its
    releases side by side. Raises ResolutionError when no address is known or the keyring is missing.
    """
    release = target.release
    file_name, package = _KEYRINGS[release.distribution]
    keyring = keyrings / file_name
    if not keyring.is_file():
        raise ResolutionError(
            f"The keyring {keyring}, with which the signatures of {release.name}'s packages are checked, is missing: "
            f"install the package {package} on this host."
        )
    named = mirrors.get(target.name) or mirrors.get(release.name) or mirrors.get("*")
    if named:
        uris = [uri.rstrip("/") for uri in named]
        return [Archive(release, uri, _sibling_security(release, uri), keyring) for uri in uris]
    return [_hosts_archive(target, entries, keyring)]


def _hosts_archive(target: Target, entries: Iterable[SourceEntry], keyring: Path) -> Archive:
    release, file_name = target.release, keyring.name
    ours = [entry for entry in entries if _may_be_distributions_own(entry, release, file_name)]
    codenames = [release.codename, *(other for other in _codenames(release.distribution) if other != release.codename)]
    for codename in (*codenames, *_ALIASES):
        uri = next((entry.uri for entry in ours if entry.suite == codename), "")
        # Ubuntu keeps the other architectures elsewhere, at an address that the host's sources do not tell.
        if uri and not (release.distribution == "ubuntu" and target.architecture != "x86_64"):
            security = next((entry.uri for entry in ours if entry.suite == f"{codename}-security"), "")
            return Archive(release, uri, security or _sibling_security(release, uri), keyring)
    raise ResolutionError(
        f"This host's apt sources do not tell where {target.name}'s packages are: "
        f"give the archive's address with --apt-mirror {_option_name(target)}=URL."
    )


def _option_name(target: Target) -> str:
    # Ubuntu's other architectures have an archive of their own.
    return target.name if target.architecture != "x86_64" else target.release.name


def _codenames(distribution: str) -> list[str]:
    return [release.codename for release in RELEASES.values() if release.distribution == distribution]


def _may_be_distributions_own(entry: SourceEntry, release: Release, keyring: str) -> bool:
    # Others use the distribution's suite names too, but with a key of their own.
    if entry.signed_by.startswith("/") and Path(entry.signed_by).name != keyring:
        return False
    return not entry.components or "main" in entry.components


def _sibling_security(release: Release, uri: str) -> str:
    """Return where mirrors keep the security updates: Debian beside the archive, Ubuntu in it."""
    return f"{uri}-security" if release.distribution == "debian" else uri


def _resolve_mirror_file(entry: SourceEntry) -> SourceEntry:
    """Return *entry* with the first address of its mirror list (apt-transport-mirror), as in Debian's cloud images."""
    if not entry.uri.startswith("mirror+file:"):
        return entry
    path = Path("/" + entry.uri.removeprefix("mirror+file:").lstrip("/"))
    if not path.is_file():
        return entry
    words = (line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.split())
    uri = next((word for word in words if not word.startswith("#")), entry.uri)
    return SourceEntry(uri.rstrip("/"), entry.suite, entry.components, entry.signed_by)
