"""What belongs on a machine, worked out on the controller: ``python3 -m airgap.audit``.

The packages in the controller's mirror are hashed against the descriptions, those against the manifests of the bundles
that are kept there, and every file that an installed environment must have is computed from them: nodes are held
against this list, and not against records of their own. It is computed once for all nodes of a target.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airgap.activation import activation_texts
from airgap.audit_conda import CondaFiles, read_conda
from airgap.audit_debian import debian_checksums
from airgap.audit_rules import Rules, optional
from airgap.audit_wheels import WheelFiles, read_wheel
from airgap.environment import Environment, PackageFile
from airgap.errors import AirgapError, ManifestError, VerificationError
from airgap.hashing import sha256_of_bytes, sha256_of_file
from airgap.install import MARKER
from airgap.site import Site

FORMAT_VERSION = 1
CONTROLLER = "controller"
# Beside a flow's code: the environment that it runs in.
_ENVIRONMENT_LINK = ".environment"
_TOOLKIT = "toolkit"
_EMPTY = sha256_of_bytes(b"")
# What rattler leaves in a prefix beside the packages' files.
_RATTLERS = {
    ".lock": optional(_EMPTY),
    "conda-meta/history": optional(_EMPTY),
    "CACHEDIR.TAG": optional("cachedir-tag"),
}


@dataclass(frozen=True)
class Machine:
    """Where a machine has what is audited."""

    target: str
    environments: Path
    """Directory of its environments."""
    link: Path
    """Link to the environment that its services use."""
    base: str
    """Name of that environment."""


def _environments(site: Site, machine: Machine) -> dict[str, Environment]:
    """Return the environments that belong on *machine*, by the names of their directories."""
    installed = site.installed()
    if installed is None:
        raise ManifestError(f"There is no bundle below {site.root}: run install-pag-controller.sh.")
    used = [entry.environment for entry in (*site.bundle_environments(), *site.flow_environments())]
    found = {
        environment.directory_name: environment
        for environment in (*used, *_of_packs(site))
        if environment.target == machine.target
        and environment.name != _TOOLKIT
        and (environment.name == CONTROLLER) == (machine.base == CONTROLLER)
    }
    known = {environment.digest for environment in used}
    for entry in installed.environments:
        if entry.digest not in known:
            raise VerificationError(
                f"{site.root / entry.path} is not the one of the bundle that is installed: run "
                "install-pag-controller.sh again."
            )
    return found


def _of_packs(site: Site) -> Iterator[Environment]:
    """Yield environments that came with flows: no bundle knows them, the controller checked their packs."""
    of_bundles = {entry.path for manifest in site.manifests() for entry in manifest.environments}
    for path in sorted(site.root.glob("environments/[!.]*.json")):
        if path.relative_to(site.root).as_posix() not in of_bundles:
            yield Environment.from_file(path)


def _debs(site: Site, target: str) -> dict[str, set[str]]:
    """Return the SHA-256 of *target*'s Debian packages that manifests name, by file name."""
    accepted: dict[str, set[str]] = {}
    for manifest in site.manifests():
        for file in manifest.all_files:
            directory, _, name = file.path.rpartition("/")
            if file.kind == "deb" and directory == f"mirror/apt/{target}":
                accepted.setdefault(name, set()).add(file.sha256)
    return accepted


def expected(root: Path, machine: Machine, work: Path) -> dict[str, Any]:
    """Return what belongs on *machine*, from what is kept below *root*; packages are unpacked below *work*.

    Raises VerificationError when what the controller keeps is not what the manifests name.
    """
    site = Site(root)
    environments = _environments(site, machine)
    packages, entries = _Rules(environments, machine.environments, site.mirror, work).compute()
    based = [str(machine.environments / name) for name, found in environments.items() if found.name == machine.base]
    return {
        "format_version": FORMAT_VERSION,
        "target": machine.target,
        "packages": packages,
        "environments": entries,
        "links": {str(machine.link): sorted(based)},
        "names": _common_names(site, machine.target),
        "debian": debian_checksums(site.mirror / "apt" / machine.target, _debs(site, machine.target)),
        "flows": {} if machine.base == CONTROLLER else _flows(site, machine.target),
    }


def _common_names(site: Site, target: str) -> dict[str, str]:
    """Return the names of deployed flows' environments on nodes of all targets, and their directories on *target*.

    Where the environments differed between targets, earlier releases gave them such a name: a link.
    """
    names = {}
    for record in site.flow_records():
        if "version" in record.content:
            continue
        directories = {name: entry["directory"] for name, entry in record.content["environments"].items()}
        digests = sorted({directory.rpartition("-")[2] for directory in directories.values()})
        if target in directories and len(digests) > 1:
            flow = directories[target].rpartition("-")[0]
            names[f"{flow}-{sha256_of_bytes(' '.join(digests).encode())[:12]}"] = directories[target]
    return names


class _Rules:
    """Works out the rules of environments, package by package: what they share is read once."""

    def __init__(self, environments: dict[str, Environment], directory: Path, mirror: Path, work: Path) -> None:
        self._environments = environments
        self._directory = directory
        self._mirror = mirror
        self._work = work
        self._variables: dict[str, dict[str, bytes]] = {name: {} for name in environments}

    def compute(self) -> tuple[list[Rules], dict[str, Any]]:
        """Return rules that environments share, by package, and each environment's own with its packages' numbers."""
        lost = _lost(self._environments.values(), self._mirror)
        entries: dict[str, Any] = {}
        users: dict[tuple[str, str, str], list[tuple[str, PackageFile]]] = {}
        for name, environment in self._environments.items():
            missing = sorted(package.path for package in environment.files if package.path in lost)
            entries[name] = {"reason": _reason(missing)} if missing else self._entry(environment)
            for package in () if missing else environment.files:
                # What a package becomes also depends on the interpreter.
                key: tuple[str, str, str] = (package.sha256, environment.python, environment.interpreter)
                users.setdefault(key, []).append((name, package))
        shared: list[Rules] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for number, (common, own) in enumerate(pool.map(self._read, users.values())):
                shared.append(common)
                for name, rules in own.items():
                    entries[name]["packages"].append(number)
                    entries[name]["rules"].update({f"env/{path}": rule for path, rule in rules.items()})
        for name, entry in entries.items():
            if "rules" in entry:
                entry["rules"].update(self._activation(name))
        return shared, {str(self._directory / name): entry for name, entry in entries.items()}

    def _entry(self, environment: Environment) -> dict[str, Any]:
        marker = sha256_of_bytes(f"{environment.digest}\n".encode())
        return {
            "interpreter": environment.interpreter,
            "python": environment.python,
            "packages": [],
            "rules": {MARKER: marker} | {f"env/{path}": rule for path, rule in _RATTLERS.items()},
        }

    def _read(self, users: Sequence[tuple[str, PackageFile]]) -> tuple[Rules, dict[str, Rules]]:
        """Return a package's rules for every prefix, and those for each environment that uses it."""
        first, package = users[0]
        files = _read(package, self._mirror, self._environments[first], self._work)
        names = [name for name, _ in users]
        if isinstance(files, CondaFiles):
            for name in names:
                self._variables[name].update(files.environment_variables)
        return files.shared, {name: files.in_prefix(f"{self._directory}/{name}/env") for name in names}

    def _activation(self, name: str) -> Rules:
        contents = [content for _, content in sorted(self._variables[name].items())]
        texts = activation_texts(self._directory / name, self._environments[name].name, contents)
        return {file: sha256_of_bytes(text.encode()) for file, text in texts.items()}


def _reason(missing: Sequence[str]) -> str:
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"the controller's mirror no longer has {', '.join(missing[:3])}{more}"


def _lost(environments: Iterable[Environment], mirror: Path) -> set[str]:
    """Return the packages that *mirror* no longer has; raise VerificationError when one of them is damaged."""
    packages = {(package.path, package.sha256) for environment in environments for package in environment.files}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checked = list(pool.map(lambda entry: (*entry, _sha256(mirror / entry[0])), sorted(packages)))
    damaged = [path for path, sha256, found in checked if found not in (None, sha256)]
    if damaged:
        raise VerificationError(
            f"The controller's mirror {mirror} does not have what the manifests name ({'; '.join(damaged)} differs): "
            "run install-pag-controller.sh of that bundle again."
        )
    return {path for path, _, found in checked if found is None}


def _sha256(path: Path) -> str | None:
    return sha256_of_file(path) if path.is_file() else None


def _read(package: PackageFile, mirror: Path, environment: Environment, work: Path) -> CondaFiles | WheelFiles:
    if package.path.endswith(".whl"):
        return read_wheel(package, mirror / package.path, environment)
    from rattler.package_streaming import extract

    with tempfile.TemporaryDirectory(dir=work) as unpacked:
        extract(mirror / package.path, Path(unpacked))
        return read_conda(package, Path(unpacked), environment)


def _flows(site: Site, target: str) -> dict[str, Rules]:
    """Return the rules of the code of deployed flows on *target*, by ``<flow>/<version>``."""
    flows: dict[str, Rules] = {}
    for record in site.flow_records():
        names, digest = record.content["files"], record.content["digest"]
        rules = {name: sha256_of_file(record.directory / "code" / name) for name in names}
        # The digest over names and contents that the record itself, and the code's directory on nodes, carry.
        listing = "".join(f"{rules[name]}  {name}\n" for name in names)
        if sha256_of_bytes(listing.encode()) != digest:
            raise VerificationError(f"The code in {record.directory} is not what was deployed: deploy the flow again.")
        version, marker = digest[:12], f"{digest}\n"
        if "version" in record.content:
            environments = record.content["environments"]
            lines = [f"environment {name} {entry['digest']}" for name, entry in sorted(environments.items())]
            version, marker = record.content["version"], "\n".join([f"code {digest}", *lines, ""])
            if target in environments:
                rules[_ENVIRONMENT_LINK] = f"-> ../../../envs/{environments[target]['directory']}"
        flows[f"{record.content['flow']}/{version}"] = rules | {MARKER: sha256_of_bytes(marker.encode())}
    return flows


def encode(document: dict[str, Any]) -> str:
    """Return *document* as text for a module's argument: JSON, compressed, in base64."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 6)).decode()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; write the list and print one line of JSON about it."""
    parser = argparse.ArgumentParser(prog="python3 -m airgap.audit", description="List what belongs on a machine.")
    parser.add_argument("--root", type=Path, required=True, help="where the bundle is installed on the controller")
    parser.add_argument("--target", required=True, help="the machine's target, for example debian-12-x86_64")
    parser.add_argument("--environments", type=Path, required=True, help="the machine's directory of environments")
    parser.add_argument("--link", type=Path, required=True, help="the machine's link to its base environment")
    parser.add_argument("--base", required=True, help="name of that environment")
    parser.add_argument("--output", type=Path, required=True, help="file to write the list to")
    options = parser.parse_args(arguments)
    if re.fullmatch(r"[a-z0-9._-]+", options.target) is None:
        parser.error(f"{options.target!r} is no target")
    started = time.monotonic()
    try:
        machine = Machine(options.target, options.environments, options.link, options.base)
        with tempfile.TemporaryDirectory(prefix="pag-audit-") as work:
            document = expected(options.root, machine, Path(work))
        options.output.write_text(encode(document), encoding="ascii")
    except AirgapError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename} cannot be used: {error.strerror}.", file=sys.stderr)
        return 1
    files = sum(len(rules) for rules in document["packages"])
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({"environments": len(document["environments"]), "files": files, "seconds": seconds}))
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # rattler's threads sometimes crash the interpreter while it exits, after all work is done.
    os._exit(status)
