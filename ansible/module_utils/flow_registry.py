"""The controller's registry of deployed flows, ``/opt/pag/flows``: every version of a deployment that is kept.

::

    <flow>/<deployment>/current -> versions/<version>     what the deployment runs; switched atomically
    <flow>/<deployment>/next -> versions/<version>        while the server is being told of another; gone afterwards
    <flow>/<deployment>/versions/<version>/record.json    what the version is: see RECORD below
                                           code/          the files that travel to the nodes
                                           <name>.json    descriptions of its environments, one for each target

``<flow>`` is the name of the flow directory, ``<version>`` twelve digits over code and environments. A flow's directory
without deployments stays where nodes could not be reached when the flow was removed: they are cleaned when they are
back.

To read the registry (for a status, say): ``Registry(Path("/opt/pag/flows")).deployments()``; or without this module,
every ``*/*/current/record.json``. A deployment of an earlier release has its one record in ``*/*/record.json`` instead,
with ``code/`` and the descriptions beside it, and neither ``version`` nor ``settings``; deploying it again brings it
into the form above.

RECORD: ``format_version``, ``flow``, ``deployment``, ``full_name`` (``flow/deployment`` as Prefect has it),
``work_pool``, ``entrypoint``, ``version``, ``digest`` (of the code), ``files``, ``size`` (bytes of code), ``deployed``
(UTC, when it last became current), ``environments`` (by target: ``description``, ``directory`` below
``/opt/prefect/envs``, ``digest``), ``settings`` (the deployment on the server), ``asked`` (what the operator and
prefect.yaml said), ``packs`` (SHA-256).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT_VERSION = 2
RECORD = "record.json"
CURRENT = "current"
NEXT = "next"
MARKER = ".complete"
"""File in a version's directory on a node, written last; its text is :func:`listing`."""
ENVIRONMENT = ".environment"
"""Link in a version's directory on a node, to the environment that it runs in there."""
VERSION_DIGITS = 12
_REMOVED = ".removed"

Record = dict[str, Any]


class RegistryError(Exception):
    """The registry has not what was asked for, or cannot be read; the message is one sentence for the operator."""


def listing(digest: str, environments: Mapping[str, str]) -> str:
    """Return the text whose SHA-256 begins with the version: the code's digest, and the environments' by target."""
    lines = [f"environment {target} {found}" for target, found in sorted(environments.items())]
    return "\n".join([f"code {digest}", *lines, ""])


def version_of(text: str) -> str:
    """Return the version that :func:`listing` describes."""
    return hashlib.sha256(text.encode()).hexdigest()[:VERSION_DIGITS]


def marker_of(record: Record) -> str:
    """Return what the marker of the record's version says on a node."""
    if record["format_version"] < FORMAT_VERSION:
        return f"{record['digest']}\n"
    return listing(record["digest"], {target: found["digest"] for target, found in record["environments"].items()})


def common_name(record: Record) -> str | None:
    """Return the name that the environments of a record of an earlier release have on nodes of all targets."""
    if record["format_version"] >= FORMAT_VERSION or not record["environments"]:
        return None
    directories = [entry["directory"] for entry in record["environments"].values()]
    digests = sorted({directory.rpartition("-")[2] for directory in directories})
    if len(digests) > 1:
        digests = [hashlib.sha256(" ".join(digests).encode()).hexdigest()[:12]]
    return f"{directories[0].rpartition('-')[0]}-{digests[0]}"


@dataclass(frozen=True)
class KeptVersion:
    """A version of a deployment that the controller keeps."""

    directory: Path
    """Where its record, code and descriptions are."""
    record: Record

    @property
    def version(self) -> str:
        """The name of its directory on the nodes."""
        return str(self.record.get("version") or self.record["digest"][:VERSION_DIGITS])


@dataclass(frozen=True)
class KeptDeployment:
    """A deployment, with the versions of it that the controller keeps."""

    directory: Path

    @property
    def flow(self) -> str:
        """Name of the flow directory."""
        return self.directory.parent.name

    @property
    def name(self) -> str:
        """Name of the deployment."""
        return self.directory.name

    @property
    def words(self) -> str:
        """What sentences call it."""
        return f"{self.flow}/{self.name}"

    def versions(self) -> list[KeptVersion]:
        """Return the versions, the one that was current last at the front. Raises RegistryError."""
        found = [read(path.parent) for path in (self.directory / "versions").glob(f"[!.]*/{RECORD}")]
        if (self.directory / RECORD).is_file():
            found.append(read(self.directory))
        return sorted(found, key=lambda kept: (kept.record.get("deployed", ""), kept.version), reverse=True)

    def linked(self, link: str) -> str | None:
        """Return the version that a link (CURRENT, NEXT) points at, None where there is no such link."""
        path = self.directory / link
        if path.is_symlink() and (path / RECORD).is_file():
            return path.readlink().name
        return None

    def current(self) -> KeptVersion | None:
        """Return the version that the deployment runs. Raises RegistryError."""
        if self.linked(CURRENT):
            return read(self.directory / "versions" / str(self.linked(CURRENT)))
        return read(self.directory) if (self.directory / RECORD).is_file() else None

    def needed(self) -> list[KeptVersion]:
        """Return the versions that new runs may start with: the current one, and one that is being switched to."""
        current, coming = self.current(), self.linked(NEXT)
        found = [current] if current else []
        if coming and coming not in [kept.version for kept in found]:
            found.append(read(self.directory / "versions" / coming))
        return found

    def superfluous(self, keep: int) -> list[KeptVersion]:
        """Return the versions beyond the *keep* newest; those that new runs may start with are never among them."""
        needed = {kept.version for kept in self.needed()}
        others = [kept for kept in self.versions() if kept.version not in needed]
        return others[max(0, keep - len(needed)) :]


@dataclass(frozen=True)
class Registry:
    """The registry in a directory."""

    root: Path

    def deployments(self, flow: str | None = None) -> list[KeptDeployment]:
        """Return all deployments, or those of one flow directory, sorted."""
        found = [
            KeptDeployment(path)
            for path in sorted(self.root.glob(f"{flow or '[!.]*'}/[!.]*"))
            if (path / "versions").is_dir() or (path / RECORD).is_file()
        ]
        return [deployment for deployment in found if deployment.versions()]

    def deployment(self, flow: str, name: str) -> KeptDeployment:
        """Return a deployment, which need not be there."""
        return KeptDeployment(self.root / flow / name)

    def flows(self) -> list[str]:
        """Return the names of all flow directories that are, or were, deployed."""
        return sorted(path.name for path in self.root.glob("[!.]*") if path.is_dir())

    def kept(self) -> dict[str, list[str]]:
        """Return the versions that nodes keep, by flow directory. Raises RegistryError."""
        return {
            flow: sorted({kept.version for found in self.deployments(flow) for kept in found.versions()})
            for flow in self.flows()
        }

    def choose(self, flow: str, name: str | None = None) -> list[KeptDeployment]:
        """Return the deployments that an operator means; none for a flow of which only the removal is unfinished.

        Raises RegistryError with the names that there are.
        """
        found = [
            deployment
            for deployment in self.deployments()
            if flow in (deployment.flow, str(deployment.versions()[0].record.get("full_name")).rpartition("/")[0])
        ]
        if not found and name is None and flow in self.flows():
            return []
        if not found:
            known = ", ".join(sorted({deployment.flow for deployment in self.deployments()})) or "none"
            raise RegistryError(f"No flow {flow} is deployed: the controller knows {known}.")
        chosen = [deployment for deployment in found if name in (None, deployment.name)]
        if not chosen:
            known = ", ".join(deployment.name for deployment in found)
            raise RegistryError(f"The flow {flow} has no deployment {name}: it has {known}.")
        return chosen

    def choose_version(self, flow: str | None, name: str | None, version: str) -> tuple[KeptDeployment, KeptVersion]:
        """Return what to go back to; *version* may be its beginning. Raises RegistryError with what there is.

        Without *flow*, it is the one that has such a version.
        """
        flow = flow or self._flow_with(version)
        chosen = self.choose(flow, name)
        if len(chosen) > 1:
            names = ", ".join(deployment.name for deployment in chosen)
            raise RegistryError(
                f"The flow {flow} has several deployments ({names}): say which one with -e deployment_name=NAME."
            )
        if not chosen:
            raise RegistryError(f"The flow {flow} was removed: deploy its flow_dir.")
        (deployment,) = chosen
        kept = deployment.versions()
        found = [entry for entry in kept if entry.version.startswith(version) and version]
        if len(found) != 1:
            names = ", ".join(f"{entry.version} of {entry.record.get('deployed', 'earlier')}" for entry in kept)
            problem = "several versions that begin with" if found else "no version"
            raise RegistryError(f"{deployment.words} has {problem} {version}: there are {names}.")
        if found[0].record["format_version"] < FORMAT_VERSION:
            raise RegistryError(
                f"{deployment.words} was deployed by an earlier release, which kept no settings: deploy its flow_dir."
            )
        return deployment, found[0]

    def _flow_with(self, version: str) -> str:
        flows = sorted(
            {
                deployment.flow
                for deployment in self.deployments()
                if any(kept.version.startswith(version) for kept in deployment.versions())
            }
        )
        if len(flows) != 1:
            found = f"The flows {', '.join(flows)} have" if flows else "No flow has"
            raise RegistryError(
                f"{found} a version {version}: say which flow with -e flow=NAME; flow-list.yml shows all."
            )
        return flows[0]


def read(directory: Path) -> KeptVersion:
    """Return the version that is kept in *directory*. Raises RegistryError."""
    try:
        record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not {"format_version", "digest", "environments"} <= set(record):
            raise ValueError("it lacks what every record has")
    except (OSError, ValueError) as error:
        raise RegistryError(f"{directory / RECORD} is no record of a flow ({error}): deploy the flow again.") from error
    return KeptVersion(directory, record)


def store(deployment: KeptDeployment, record: Record, source: Path, descriptions: Iterable[Path]) -> None:
    """Keep a version of *deployment*: the record, its files from *source*, its environments' *descriptions*.

    A version is there as a whole or not at all. Raises OSError.
    """
    versions = deployment.directory / "versions"
    versions.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{record['version']}.", dir=versions))
    try:
        for name in record["files"]:
            target = new / "code" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target)
        for path in descriptions:
            shutil.copyfile(path, new / path.name)
        write_record(new, record)
        new.chmod(0o755)
        kept = versions / record["version"]
        discard([kept])
        new.rename(kept)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def write_record(directory: Path, record: Record) -> None:
    """Write the record of the version in *directory* at once. Raises OSError."""
    temporary = directory / f".{RECORD}"
    temporary.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.chmod(0o644)
    temporary.replace(directory / RECORD)


def point(deployment: KeptDeployment, link: str, version: str) -> None:
    """Switch a link (CURRENT, NEXT) of *deployment* to *version*. Raises OSError."""
    temporary = deployment.directory / f".{link}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(f"versions/{version}")
    temporary.replace(deployment.directory / link)


def discard(paths: Iterable[Path]) -> None:
    """Remove directories so that none passes for a whole one at any moment. Raises OSError."""
    for path in paths:
        if path.exists():
            doomed = path if path.name.endswith(_REMOVED) else path.with_name(f".{path.name}{_REMOVED}")
            if doomed != path:
                shutil.rmtree(doomed, ignore_errors=True)
                path.rename(doomed)
            shutil.rmtree(doomed)


def leftovers(directory: Path) -> Iterator[Path]:
    """Yield what an interrupted removal or recording left in *directory*."""
    for path in sorted(directory.glob(".*")) if directory.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            yield path


def bytes_below(paths: Iterable[Path]) -> int:
    """Return how many bytes become free when *paths* are removed: files with names elsewhere are not counted."""
    names: dict[tuple[int, int], int] = {}
    status_of: dict[tuple[int, int], os.stat_result] = {}
    for path in paths:
        for parent, _, files in os.walk(path):
            for name in files:
                status = Path(parent, name).lstat()
                key = (status.st_dev, status.st_ino)
                names[key] = names.get(key, 0) + 1
                status_of[key] = status
    return sum(status.st_size for key, status in status_of.items() if status.st_nlink <= names[key])
