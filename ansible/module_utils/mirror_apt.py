"""Install Debian packages from a directory of the bundle's mirror, and from nowhere else.

apt runs with a private list of sources and a private state of package lists: the host's own sources are never read,
so nothing waits for an archive that cannot be reached. Standard library only: nodes run it with their own Python, and
install-pag-controller.sh calls it as a program.
"""

from __future__ import annotations

import argparse
import hashlib
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
# Seconds to wait for another apt (unattended upgrades, for example) to finish.
_LOCK_TIMEOUT = 300


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
    keep_configuration = ["--force-confdef", "--force-confold"]
    # An installation that was cut short leaves packages unconfigured, and apt refuses to go on.
    if _run(["dpkg", "--audit"]).strip():
        _run(["dpkg", *keep_configuration, "--configure", "--pending"])
    with _private_options(mirror) as options:
        mirror.check(_needed_files(names, options))
        options += [f"--option=DPkg::Options::={flag}" for flag in keep_configuration]
        options += [f"--option=DPkg::Lock::Timeout={_LOCK_TIMEOUT}"]
        _run(["apt-get", *options, "install", "--yes", "--quiet=2", "--no-install-recommends", *names])


def _needed_files(names: Sequence[str], options: Sequence[str]) -> list[str]:
    printed = _run(["apt-get", *options, "install", "--print-uris", "--quiet=2", "--no-install-recommends", *names])
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
        }
        arguments = [f"--option={key}={value}" for key, value in options.items()]
        _run(["apt-get", *arguments, "update", "--quiet=2"])
        yield arguments


def _run(command: Sequence[str]) -> str:
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
