"""Install Debian packages from a directory of the bundle's mirror, and from nowhere else.

apt runs with a private list of sources and a private state of package lists: the host's own sources are never read,
so nothing waits for an archive that cannot be reached. Standard library only: nodes run it with their own Python, and
install-pag-controller.sh calls it as a program.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PRINTED_URI = re.compile(r"'(?P<uri>[^']+)' \S+ \d+")
# Inst NAME [OLD] (NEW ORIGIN [ARCHITECTURE]) ...; a package that is new on the node has no OLD.
_SIMULATED = re.compile(
    r"Inst (?P<name>\S+) (?:\[(?P<old>[^]]+)\] )?\((?P<new>\S+) [^)]*?(?:\[(?P<architecture>\w+)\])?\)"
)
_HELD = "The following packages have been kept back:"
# --with-new-pkgs: a kernel of another version is another package. upgrade, unlike dist-upgrade, removes nothing.
_UPGRADE = ("upgrade", "--with-new-pkgs", "--no-install-recommends")
# Seconds to wait for another apt (unattended upgrades, for example) to finish.
_LOCK_TIMEOUT = 300
_KEEP_CONFIGURATION = ("--force-confdef", "--force-confold")
RECORD = Path("/var/lib/pag/brought-packages.json")
"""Which packages were not on this machine before they came from a mirror; uninstalling removes no others."""


class MirrorAptError(Exception):
    """Packages cannot be installed; the message is one sentence for the operator."""


@dataclass(frozen=True)
class IndexedFile:
    """What the index says about a package's file."""

    sha256: str
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Mirror:
    """A directory of ``.deb`` files and the index that describes them.

    The index comes from the controller, where it was verified, so the files need not be trusted.
    """

    index: str
    """The text of ``Packages``."""
    directory: Path

    def files(self) -> dict[str, IndexedFile]:
        """Return what the index says about each file, by name."""
        files = {}
        for stanza in re.split(r"\n{2,}", self.index):
            fields = dict(re.findall(r"^(Filename|SHA256|Size): (\S+)$", stanza, re.MULTILINE))
            if fields:
                files[fields["Filename"]] = IndexedFile(fields["SHA256"], int(fields["Size"]))
        return files

    def check(self, names: Sequence[str]) -> None:
        """Raise MirrorAptError when a file of *names* is missing here or is not what the index says."""
        indexed = self.files()
        for name in names:
            path = self.directory / name
            if not path.is_file():
                raise MirrorAptError(f"{path} is missing: run the playbook again, without a selection of tags.")
            if hashlib.sha256(path.read_bytes()).hexdigest() != indexed[name].sha256:
                raise MirrorAptError(f"{path} is damaged (its SHA-256 differs): delete it and run the playbook again.")


def missing_packages(names: Sequence[str]) -> list[str]:
    """Return those of *names* that are not installed."""
    completed = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${db:Status-Abbrev}${Package}\n", *names],
        capture_output=True,
        text=True,
    )
    installed = {line[3:] for line in completed.stdout.splitlines() if line.startswith("ii ")}
    return [name for name in names if name not in installed]


def needed_files(names: Sequence[str], mirror: Mirror) -> list[str]:
    """Return the files that apt would install for *names*, in the order of their names; changes nothing."""
    with _private_options(mirror) as options:
        return _needed_files(names, options)


def install(names: Sequence[str], mirror: Mirror) -> None:
    """Install *names* with what they need; configuration files that somebody changed stay as they are.

    Raises MirrorAptError, before anything is changed, when a file of the mirror is missing or damaged.
    """
    finish_interrupted()
    with _private_options(mirror) as options:
        mirror.check(_needed_files(names, options))
        # Before they are installed: what is recorded and is not there does no harm.
        record_brought(_new_packages(names, options))
        run(
            [
                "apt-get",
                *options,
                *_changing_options(),
                "install",
                "--yes",
                "--quiet=2",
                "--no-install-recommends",
                *names,
            ]
        )


def brought_packages(record: Path | None = None) -> list[str]:
    """Return the packages that came from a mirror and were not here before, as ``name:architecture``."""
    record = record or RECORD
    return sorted(json.loads(record.read_text(encoding="utf-8"))) if record.exists() else []


def record_brought(packages: Sequence[str], record: Path | None = None) -> None:
    """Add *packages* (``name:architecture``) to the record."""
    write_brought([*brought_packages(record), *packages], record)


def write_brought(packages: Sequence[str], record: Path | None = None) -> None:
    """Make the record say *packages*; there is none where there are no packages."""
    record = record or RECORD
    if not packages:
        record.unlink(missing_ok=True)
        return
    record.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    part = record.with_suffix(".part")
    with part.open("w", encoding="utf-8") as stream:
        json.dump(sorted(set(packages)), stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    part.chmod(0o644)
    part.replace(record)


@dataclass(frozen=True)
class Upgrade:
    """A package for which the mirror has a newer version."""

    name: str
    """With the architecture, as dpkg-query has it."""
    old: str
    """Empty for a package that is new on the node because another one needs it now."""
    new: str


@dataclass(frozen=True)
class Pending:
    """What the mirror has for the packages of this machine."""

    upgrades: tuple[Upgrade, ...]
    files: tuple[str, ...]
    """The files that they are in."""
    kept_back: tuple[str, ...]
    """Packages whose newer version cannot be installed: on hold, or something else would have to go or is missing."""


def pending_upgrades(mirror: Mirror) -> Pending:
    """Return what is newer in the mirror than what is installed; changes nothing."""
    with _private_options(mirror) as options:
        return _pending_upgrades(options)


def upgrade(mirror: Mirror) -> tuple[Upgrade, ...]:
    """Upgrade every installed package that the mirror has a newer version of; return what was done.

    Removes nothing, asks nothing, and leaves configuration files as they are that somebody changed. Raises
    MirrorAptError, before anything is changed, when a file of the mirror is missing or damaged.
    """
    finish_interrupted()
    with _private_options(mirror) as options:
        mirror.check(_pending_upgrades(options).files)
        before = installed_versions()
        run(["apt-get", *options, *_changing_options(), *_UPGRADE, "--yes", "--quiet=2"])
    after = installed_versions()
    changed = sorted(name for name in after if before.get(name) != after[name])
    return tuple(Upgrade(name, before.get(name, ""), after[name]) for name in changed)


def installed_versions() -> dict[str, str]:
    """Return the version of each installed package, by ``name:architecture``."""
    lines = run(
        ["dpkg-query", "--show", "--showformat=${db:Status-Abbrev}\t${Package}:${Architecture}\t${Version}\n"]
    ).splitlines()
    columns = [line.split("\t") for line in lines]
    return {name: version for status, name, version in columns if status[1:2] == "i"}


def _pending_upgrades(options: Sequence[str]) -> Pending:
    simulated = run(["apt-get", *options, *_UPGRADE, "--simulate"])
    upgrades = _simulated(simulated)
    _, _, rest = simulated.partition(f"{_HELD}\n")
    kept_back = " ".join(itertools.takewhile(lambda line: line.startswith("  "), rest.splitlines())).split()
    printed = run(["apt-get", *options, *_UPGRADE, "--print-uris", "--quiet=2"])
    ordered = sorted(upgrades, key=lambda entry: entry.name)
    return Pending(tuple(ordered), tuple(_printed_files(printed)), tuple(kept_back))


def _new_packages(names: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return the packages that installing *names* brings to this machine, as ``name:architecture``."""
    simulated = run(["apt-get", *options, "install", "--simulate", "--no-install-recommends", *names])
    return sorted(package.name for package in _simulated(simulated) if not package.old)


def _simulated(simulated: str) -> set[Upgrade]:
    """Return the packages that apt would install, from what it prints with ``--simulate``."""
    matches = [match for line in simulated.splitlines() if (match := _SIMULATED.match(line))]
    return {
        Upgrade(f"{match['name'].partition(':')[0]}:{match['architecture']}", match["old"] or "", match["new"])
        for match in matches
    }


def is_interrupted() -> bool:
    """Return whether an installation was cut short: it leaves packages unconfigured, and apt refuses to go on."""
    return bool(run(["dpkg", "--audit"]).strip())


def finish_interrupted() -> None:
    """Configure the packages that an installation which was cut short left unconfigured."""
    if is_interrupted():
        run(["dpkg", *_KEEP_CONFIGURATION, "--configure", "--pending"])


def _changing_options() -> list[str]:
    options = [f"--option=DPkg::Options::={flag}" for flag in _KEEP_CONFIGURATION]
    return [*options, f"--option=DPkg::Lock::Timeout={_LOCK_TIMEOUT}"]


def _needed_files(names: Sequence[str], options: Sequence[str]) -> list[str]:
    printed = run(["apt-get", *options, "install", "--print-uris", "--quiet=2", "--no-install-recommends", *names])
    return _printed_files(printed)


def _printed_files(printed: str) -> list[str]:
    matches = (_PRINTED_URI.match(line) for line in printed.splitlines())
    return sorted(unquote(match["uri"]).rpartition("/")[2] for match in matches if match)


@contextmanager
def _private_options(mirror: Mirror) -> Iterator[list[str]]:
    """Yield options that make apt know *mirror* and nothing else.

    They go on the command line because the host's own configuration wins over a file.
    """
    with tempfile.TemporaryDirectory(prefix="pag-apt-") as name:
        root = Path(name)
        repository = root / "repository"
        for directory in (repository, root / "lists" / "partial", root / "archives" / "partial"):
            directory.mkdir(parents=True)
        (repository / "Packages").write_text(mirror.index, encoding="utf-8")
        for file in mirror.files():
            (repository / file).symlink_to(mirror.directory.resolve() / file)
        # The index was verified by whoever hands it in; there is no signature for apt to check.
        (root / "sources.list").write_text(f"deb [trusted=yes] file:{repository} ./\n", encoding="utf-8")
        options = {
            "Dir::Etc::SourceList": root / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::State::Lists": root / "lists",
            "Dir::Cache::Archives": root / "archives",
            "Dir::Cache::PkgCache": "",
            "Dir::Cache::SrcPkgCache": "",
            # The directory is root's alone, so apt's own user could not read it.
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            # Ubuntu hands updates to some machines first: whoever built the bundle decided already.
            "APT::Get::Always-Include-Phased-Updates": "true",
        }
        arguments = [f"--option={key}={value}" for key, value in options.items()]
        run(["apt-get", *arguments, "update", "--quiet=2"])
        yield arguments


def run(command: Sequence[str]) -> str:
    """Run a command of apt or dpkg, which asks nothing, and return what it prints; raises MirrorAptError."""
    environment = os.environ | {
        "DEBIAN_FRONTEND": "noninteractive",
        "NEEDRESTART_MODE": "l",
        "APT_LISTCHANGES_FRONTEND": "none",
        "LC_ALL": "C.UTF-8",
    }
    completed = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if completed.returncode != 0:
        complaints = [line for line in completed.stderr.splitlines() if line.startswith(("E:", "dpkg: error"))]
        reason = " ".join(complaints) or completed.stderr[-500:].strip() or f"exit code {completed.returncode}"
        raise MirrorAptError(f"{command[0]} failed: {reason}")
    return completed.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Install packages from the command line, if they are not installed; print what was done."""
    parser = argparse.ArgumentParser(description="Install Debian packages from a directory of the bundle's mirror.")
    parser.add_argument("--directory", type=Path, required=True, help="the directory with Packages and the .deb files")
    parser.add_argument("names", nargs="+", help="packages to install")
    options = parser.parse_args(arguments)
    mirror = Mirror((options.directory / "Packages").read_text(encoding="utf-8"), options.directory)
    try:
        missing = missing_packages(options.names)
        if missing:
            install(missing, mirror)
            sys.stdout.write(f"installed {' '.join(missing)}\n")
    except MirrorAptError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
