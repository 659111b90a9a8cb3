"""Debian packages: apt itself resolves them, for any release, in a private root that needs no rights.

apt checks the signatures of the archives against the distribution's keyring; the hashes that we take come from the
package lists so signed. The host's apt configuration and state are only read.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from airgap.errors import ResolutionError
from airgap.sources.apt_archives import KEYRINGS, Archive, find_archive, host_entries, parse_stanza
from airgap.sources.interface import Download, GeneratedFile, Source
from airgap.targets import Target

# 'URI' FILE SIZE [HASH]
_PRINTED_URI = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+)")
# Of the host's configuration, only how to reach the network counts (proxies, certificates).
_NETWORK_OPTION = re.compile(r"Acquire::(?:https?::|ForceIPv).*")


class AptSource(Source):
    """Debian packages with everything that they depend on."""

    def __init__(self, cache: Path, mirrors: Mapping[str, str], keyrings: Path = KEYRINGS) -> None:
        """Keep apt's private roots below *cache*.

        *mirrors* maps a release's name, or the empty string for all releases, to the address of its archive; without
        one, the host's own apt sources say where the archive is.
        """
        self._cache = cache
        self._mirrors = mirrors
        self._keyrings = keyrings

    def resolve(self, packages: Sequence[str], target: Target) -> list[Download]:
        """Return *packages* and all that they depend on, as on a system on which nothing is installed.

        Raises ResolutionError when apt is missing, an archive does not answer or is not signed by the distribution,
        or a package is not to be had.
        """
        for program in ("apt-get", "apt-cache"):
            if shutil.which(program) is None:
                raise ResolutionError(f"{program} is not on this host: build the bundle on Debian or Ubuntu.")
        archive = find_archive(target, self._mirrors, host_entries(), self._keyrings)
        root = self._cache / "apt" / target.name
        with _private_root(root, archive, target) as configuration:
            apt = _Apt(configuration, target)
            apt.run("apt-get", "update", "--quiet")
            printed = apt.run("apt-get", "install", "--print-uris", "--quiet=2", "--no-install-recommends", *packages)
            matches = [match for line in printed.splitlines() if (match := _PRINTED_URI.match(line))]
            shown = apt.run("apt-cache", "show", *(_version_of(match["file"]) for match in matches))
        stanzas = parse_stanzas(shown)
        return [_download(match["uri"], stanzas, target) for match in matches]

    def index(self, downloads: Sequence[Download], fetched: Mapping[str, Path]) -> Iterable[GeneratedFile]:
        """Yield ``Packages`` and ``Release`` for each target's directory; *fetched* is not needed."""
        directories: dict[str, list[Download]] = {}
        for download in downloads:
            directories.setdefault(download.path.rpartition("/")[0], []).append(download)
        for directory, members in sorted(directories.items()):
            packages = render_packages(members)
            yield GeneratedFile(f"{directory}/Packages", packages, "index")
            yield GeneratedFile(f"{directory}/Release", render_release(directory.rpartition("/")[2], packages), "index")


def read_package_list(path: Path) -> list[str]:
    """Return the package names in *path*: one a line, ``#`` starts a comment."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def parse_stanzas(text: str) -> list[dict[str, str]]:
    """Return the stanzas of a ``Packages`` index, fields in their order."""
    return [parse_stanza(stanza) for stanza in re.split(r"\n{2,}", text) if stanza.strip()]


def render_packages(downloads: Iterable[Download]) -> bytes:
    """Return the ``Packages`` index of a directory that holds *downloads*; the same downloads give the same bytes."""
    stanzas = []
    for download in sorted(downloads, key=lambda download: download.path):
        fields = dict(download.record or {}) | {"Filename": download.display_name}
        # A continuation line brings its own indentation, so an empty first line must not get a trailing blank.
        stanzas.append("".join(f"{name}: {value}".replace(": \n", ":\n") + "\n" for name, value in fields.items()))
    return "\n".join(stanzas).encode()


def render_release(label: str, packages: bytes) -> bytes:
    """Return the ``Release`` file beside the index *packages*.

    apt wants a date there; a fixed one keeps bundles of the same packages equal.
    """
    return (
        f"Origin: pag\nLabel: {label}\nDate: Thu, 01 Jan 1970 00:00:00 UTC\n"
        f"SHA256:\n {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n"
    ).encode()


class _Apt:
    """Runs apt's programs with a private configuration."""

    def __init__(self, configuration: Path, target: Target) -> None:
        self._configuration = configuration
        self._target = target

    def run(self, program: str, *arguments: str) -> str:
        """Return what *program* prints; raise ResolutionError with apt's own reason when it fails."""
        environment = os.environ | {"APT_CONFIG": str(self._configuration), "LC_ALL": "C.UTF-8"}
        completed = subprocess.run(
            [program, *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if completed.returncode != 0:
            complaints = [line for line in completed.stderr.splitlines() if line.startswith(("E:", "W: GPG"))]
            reason = " ".join(complaints or completed.stderr.splitlines()[-3:]) or f"exit code {completed.returncode}"
            advice = (
                "the mirror is not the distribution's, or this host's keyring is too old: update the keyring package."
                if "NO_PUBKEY" in reason
                else "check the network and the address (--apt-mirror)."
                if arguments[0] == "update"
                else "check the names in requirements/apt.txt."
            )
            raise ResolutionError(f"apt cannot resolve packages for {self._target.name} ({_mask(reason)}): {advice}")
        return completed.stdout


@contextmanager
def _private_root(root: Path, archive: Archive, target: Target) -> Iterator[Path]:
    """Prepare apt's private root, hold it against other builders, and yield the configuration's path."""
    for directory in ("lists/partial", "archives/partial", "etc/sources.list.d", "etc/apt.conf.d", "etc/preferences.d"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    with (root / "builder.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (root / "status").write_bytes(b"")
        (root / "etc" / "sources.list.d" / "archive.sources").write_text(str(archive), encoding="utf-8")
        options = {
            "Dir": root,
            "Dir::Etc": root / "etc",
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
        configuration.write_text("".join([*lines, *_network_options()]), encoding="utf-8")
        configuration.chmod(0o600)
        yield configuration


def _network_options() -> list[str]:
    dumped = subprocess.run(["apt-config", "dump"], capture_output=True, text=True).stdout
    return [line + "\n" for line in dumped.splitlines() if _NETWORK_OPTION.match(line)]


def _version_of(file_name: str) -> str:
    """Return ``name=version`` for a file name as apt prints it (``%3a`` for the epoch's colon)."""
    name, version, _architecture = unquote(file_name).removesuffix(".deb").split("_")
    return f"{name}={version}"


def _download(uri: str, stanzas: Iterable[Mapping[str, str]], target: Target) -> Download:
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
    )


def _mask(text: str) -> str:
    """Return *text* without credentials in addresses."""
    return re.sub(r"//[^/@\s]+@", "//", text)
