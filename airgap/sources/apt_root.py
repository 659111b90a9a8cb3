"""apt's private root: a configuration, state and keyring of its own, which needs no rights.

apt checks the signatures of the archives against the distribution's keyring. The host's apt configuration and state are
only read.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from airgap.addresses import redact, redact_text
from airgap.errors import ResolutionError
from airgap.network import NetworkOptions
from airgap.sources.apt_archives import APT_DIRECTORY, AptRepository, Archive
from airgap.targets import Target

# What apt says of a package that cannot be installed.
_UNMET = re.compile(r" \S+ : \w+: ")
# Of the host's configuration, only how to reach the network counts (proxies, certificates).
_NETWORK_OPTION = re.compile(r"Acquire::(?:https?::|ForceIPv).*")
_PROXY_OPTION = re.compile(r'Acquire::(https?)::Proxy "([^"]+)";', re.IGNORECASE)
# Seconds between attempts at the package lists.
_PAUSES = (2.0, 6.0)
# What apt says of troubles that pass: of the network, of a server, of a mirror that is just being updated, and of
# another apt at work in the same root, which a build that was killed has left.
_PASSING = re.compile(
    r"Temporary failure|Could not connect|Unable to connect|Connection (?:failed|timed out|reset)|Could not get lock|"
    r"timed out|Error reading from server|Undetermined Error|Hash Sum mismatch|unexpected size|"
    r"\b(?:408|429|500|502|503|504)  "
)


class Apt:
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
            [program, *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8"
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
class Root:
    """apt's private root with package lists in it."""

    path: Path
    apt: Apt
    archive: Archive
    """Where the lists are from."""
    archives: Sequence[Archive]
    """All that have the same packages."""
    repositories: Sequence[AptRepository]


def update(apt: Apt, root: Path, archives: Sequence[Archive], repositories: Sequence[AptRepository]) -> Archive:
    """Fetch the package lists of the first of *archives* that works, and of all *repositories*; return that archive."""
    for repository in repositories:
        if not repository.signed_by.is_file():
            raise ResolutionError(
                f"The keyring {repository.signed_by} of the repository {redact(repository.uri)} is not there: put it "
                "there, or correct signed-by."
            )
    preferences = root / "etc" / "preferences"
    preferences.write_bytes(b"")
    # apt itself repeats single requests only: not those that a mirror answers with lists of different hours, nor those
    # for a host whose name server is silent for longer.
    for pause in (*_PAUSES, None):
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
        if pause is None or not any(_PASSING.search(str(refusal)) for refusal in refusals):
            break
        time.sleep(pause)
    if len(refusals) == 1:
        raise refusals[0]
    tried = ", ".join(redact(archive.uri) for archive in archives)
    raise ResolutionError(f"None of the archives {tried} can be used; of the last: {refusals[-1]}")


def _pin(apt: Apt, repository: AptRepository) -> str:
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
def private_root(root: Path, target: Target, network: NetworkOptions) -> Iterator[Path]:
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
    return subprocess.run(["apt-config", "dump"], capture_output=True, encoding="utf-8").stdout.splitlines()
