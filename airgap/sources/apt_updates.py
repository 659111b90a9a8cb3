"""Security updates for nodes of which only the packages' names, versions and architectures are known.

apt is shown a status file made of those, as if it stood on such a node. What installed packages depend on does not
matter: upgrades bring their own dependencies, and each node's apt decides for itself in the end. A version that is
installed already may therefore be named as its own upgrade, and is left out afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from airgap.sources.apt_archives import parse_stanza
from airgap.targets import Target

# 'URI' FILE SIZE [HASH]
_PRINTED_URI = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) \d+", re.MULTILINE)
_KEPT_BACK = re.compile(r"^The following packages have been kept back:\n(?P<names>(?:  .*\n)+)", re.MULTILINE)
_PACKAGE_FIELD = re.compile(r"\APackage: (\S+)$", re.MULTILINE)
# What others need of an installed package; the rest of its stanza is about what it needs itself.
_BORROWED_FIELDS = ("Multi-Arch", "Provides")
# In apt's private root.
_STATUS = "nodes-status"
_PREFERENCES = "nodes-preferences"

Run = Callable[..., str]
"""Runs one of apt's programs with arguments, and returns what it prints; *advice* ends the error's sentence."""


@dataclass(frozen=True)
class Upgrade:
    """A package that apt would fetch."""

    uri: str
    name: str
    version: str
    architecture: str

    @property
    def exactly(self) -> str:
        """What apt's programs take for this version and no other."""
        return f"{self.name if self.architecture == 'all' else f'{self.name}:{self.architecture}'}={self.version}"


def find_updates(
    run: Run, root: Path, statuses: Iterable[Mapping[str, str]], target: Target
) -> tuple[list[Upgrade], str]:
    """Return the upgrades out of *target*'s security suite, with what else they need, for nodes with *statuses*.

    The second value is what the archive says of them: their stanzas.

    A status has versions by ``name:architecture``. *run* works in apt's private *root*, whose package lists are fresh.
    Its errors pass through.
    """
    different = list({frozenset(status.items()): status for status in statuses}.values())
    foreign = sorted({package.partition(":")[2] for status in different for package in status})
    architectures = [name for name in foreign if name not in (target.debian_architecture, "all")]
    options = _options(
        {
            "Dir::State::status": root / _STATUS,
            "APT::Architectures": ",".join([target.debian_architecture, *architectures]),
        }
    )
    (root / _STATUS).write_bytes(b"")
    if architectures:
        run("apt-get", "update", "--quiet", *options)
    (root / _PREFERENCES).write_text(render_preferences(target), encoding="utf-8")
    names = {package.partition(":")[0] for status in different for package in status}
    listed = run("apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Packages", *options)
    stanzas = list(_stanzas_of(names, [Path(line) for line in listed.splitlines()]))
    found: dict[str, Upgrade] = {}
    for status in different:
        (root / _STATUS).write_text(render_status(status, stanzas, target.debian_architecture), encoding="utf-8")
        found |= {upgrade.uri: upgrade for upgrade in _upgrades(run, root, status, options, target)}
    upgrades = sorted(found.values(), key=lambda upgrade: upgrade.uri)
    shown = run("apt-cache", "show", *options, *(upgrade.exactly for upgrade in upgrades)) if upgrades else ""
    return upgrades, shown


def render_status(status: Mapping[str, str], stanzas: Iterable[Mapping[str, str]], native: str) -> str:
    """Return dpkg's status file of a node with the packages in *status*, versions by ``name:architecture``.

    *stanzas* are the archive's, *native* the node's own architecture. What the archive says of a package in any version
    is close enough to what the installed version provides: releases do not change that.
    """
    known = {f"{stanza['Package']}:{stanza['Architecture']}": stanza for stanza in stanzas}
    lines: list[str] = []
    for package, version in sorted(status.items()):
        name, _, architecture = package.partition(":")
        if architecture not in (native, "all") and package not in known:
            continue  # nothing of it can be upgraded, and apt would take it for broken beside the native one
        lines += [f"Package: {name}", "Status: install ok installed", f"Architecture: {architecture}"]
        lines += [f"Version: {version}"]
        stanza = known.get(package, {})
        lines += [f"{field}: {stanza[field]}" for field in _BORROWED_FIELDS if field in stanza]
        lines.append("")
    return "".join(f"{line}\n" for line in lines)


def render_preferences(target: Target) -> str:
    """Return apt's preferences that take upgrades from the security suite only, and new packages from everywhere.

    An installed version has priority 100 (apt_preferences(5)): what is below that is taken only where nothing is
    installed. The first record that fits a repository counts.
    """
    suite = f"{target.release.codename}-security"
    pins = (
        (f"release n={suite}", 500),  # Debian
        (f"release a={suite}", 500),  # Ubuntu
        ("release n=*", 50),
        ('origin "*"', 50),
    )
    return "\n".join(f"Package: *\nPin: {pin}\nPin-Priority: {priority}\n" for pin, priority in pins)


def kept_back(printed: str) -> list[str]:
    """Return the packages that apt says it does not upgrade, though there is a newer version."""
    match = _KEPT_BACK.search(printed)
    return match["names"].split() if match else []


def _upgrades(run: Run, root: Path, status: Mapping[str, str], options: Sequence[str], target: Target) -> list[Upgrade]:
    arguments = ("--print-uris", "--quiet", "--no-install-recommends", *options)
    advice = "try again when the archive has what is missing, or leave --system-updates out."
    pins = _options({"Dir::Etc::preferences": root / _PREFERENCES, "Dir::Etc::preferencesparts": "/dev/null"})
    printed = run("apt-get", "dist-upgrade", *arguments, *pins, advice=advice)
    upgrades = _newer(printed, status)
    if kept := kept_back(printed):
        # They need a newer version of something that is installed, from outside the security suite: let them have it.
        wanted = [upgrade.exactly for upgrade in upgrades]
        wanted += [f"{name}/{target.release.codename}-security" for name in kept]
        upgrades = _newer(run("apt-get", "install", *arguments, *wanted, advice=advice), status)
    return upgrades


def _newer(printed: str, status: Mapping[str, str]) -> list[Upgrade]:
    upgrades = []
    for match in _PRINTED_URI.finditer(printed):
        name, version, architecture = unquote(match["file"]).removesuffix(".deb").split("_")
        if status.get(f"{name}:{architecture}") != version:
            upgrades.append(Upgrade(match["uri"], name, version, architecture))
    return upgrades


def _stanzas_of(names: set[str], lists: Iterable[Path]) -> Iterator[dict[str, str]]:
    for path in lists:
        # By hand: a release's list has 60,000 stanzas, of which a node has some hundred.
        for text in path.read_text(encoding="utf-8").split("\n\n"):
            match = _PACKAGE_FIELD.match(text)
            if match and match[1] in names:
                yield parse_stanza(text)


def _options(options: Mapping[str, object]) -> list[str]:
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
