"""What a bundle is to hold, before anything is asked or fetched: environments, targets, and which Python."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from airgap.addresses import redact
from airgap.environment import Interpreter
from airgap.errors import ResolutionError, UsageError
from airgap.network import NetworkOptions
from airgap.sources.apt_archives import AptRepository
from airgap.sources.conda_extra import CondaExtra
from airgap.targets import Target
from airgap.toml import read_toml

if TYPE_CHECKING:
    from airgap.delta import Base

BASE = "prefect"
CONTROLLER = "controller"
TOOLKIT = "toolkit"
RESERVED_NAMES = frozenset({BASE, CONTROLLER, TOOLKIT})

PIXI_ENVIRONMENT = "default"
LOCK_NAME = "pixi.lock"
REQUIREMENTS_NAME = "requirements.txt"

PythonOption = Literal["auto", "conda", "system"]
_FLOW_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ANSWER_TIMEOUT = 10.0


@dataclass(frozen=True)
class BuildOptions:
    """What the operator asked for."""

    root: Path
    """The checkout."""
    cache: Path
    output: Path
    targets: tuple[Target, ...]
    python: PythonOption = "auto"
    flows: tuple[Path, ...] = ()
    channels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Addresses to take conda channels from, the first that works, by channel name or by the start of its address."""
    apt_mirrors: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Addresses of Debian archives, the first that works, by target or release; "*" is for all others."""
    apt_repositories: tuple[AptRepository, ...] = ()
    """Where else Debian packages are."""
    extra_debs: tuple[str, ...] = ()
    """Debian packages to carry besides what pag itself needs."""
    extra_wheels: tuple[Path, ...] = ()
    """Hash-locked requirements files whose wheels are to be carried."""
    extra_conda: tuple[CondaExtra, ...] = ()
    """Conda packages to carry."""
    network: NetworkOptions = field(default_factory=NetworkOptions)
    version: str = ""
    dry_run: bool = False
    base: Base | None = None
    """The site that a delta is for; None for a bundle that holds everything."""
    sign_key: Path | None = None
    """The key to sign the bundle with."""
    split_size: int | None = None
    """Bytes that each volume is to be smaller than; None writes one archive."""
    system_updates: bool = False
    """Whether the security updates of the site's nodes are to travel too."""


@dataclass(frozen=True)
class EnvironmentPlan:
    """An environment to resolve for each target."""

    name: str
    interpreter: Interpreter
    lock: Path
    """``pixi.lock`` for the interpreter conda, a hash-locked requirements file for system."""
    flow: Path | None = None
    """The flow directory that it belongs to."""


@dataclass(frozen=True)
class Choice:
    """Which Python the bundle's environments have, and why."""

    interpreter: Interpreter
    reason: str
    """In one sentence, without a full stop; of the lock, nothing of this machine: it stands in the manifest."""
    details: str = ""
    """What was seen on this machine, for its operator; may name mirrors and directories."""

    def __str__(self) -> str:
        """Return the choice as the first and the last line of a build say it."""
        what = "conda packages" if self.interpreter == "conda" else "the nodes' own Python with wheels"
        return f"Python: {self.interpreter} ({what}), because {self.details or self.reason}."


class Channels(Protocol):
    """What the choice needs to know of conda channels."""

    def channels_of(self, locks: Sequence[Path]) -> list[str]:
        """Return the addresses of the channels that *locks* name."""

    def answers(self, url: str, timeout: float) -> str | None:
        """Return None when the channel answers, else why not."""


def choose_interpreter(option: PythonOption, locks: Sequence[Path], channels: Channels) -> Choice:
    """Return which Python to build with; asks the channels only when *option* is ``auto``."""
    if option != "auto":
        return Choice(option, f"--python {option} was given")
    existing = [lock for lock in locks if lock.is_file()]
    if not existing:
        return Choice("system", f"there is no {LOCK_NAME}")
    addresses = channels.channels_of(existing)
    for address in addresses:
        if (silence := channels.answers(address, _ANSWER_TIMEOUT)) is not None:
            return Choice("system", f"the channel {_public(address)} does not answer", silence.rstrip("."))
    return Choice("conda", f"the channels that the locks name answer ({', '.join(map(_public, addresses))})")


def _public(channel: str) -> str:
    """Return what may be said of a channel everywhere; the directory of a local one is its author's matter."""
    return channel.rpartition("/")[2] if channel.startswith("file:") else redact(channel)


def plan_environments(root: Path, flows: Sequence[Path], interpreter: Interpreter) -> list[EnvironmentPlan]:
    """Return the environments of a bundle with *flows*: the base, the controller's, the toolkit, and the flows'.

    Raises UsageError for flow directories that cannot be one, and ResolutionError for a flow that has no lock for
    *interpreter*.
    """
    check_flow_names(flows)
    requirements = root / "requirements"
    base = root / LOCK_NAME if interpreter == "conda" else requirements / "prefect.txt"
    return [
        EnvironmentPlan(BASE, interpreter, base),
        # Ansible runs on the controller's own Python in either case.
        EnvironmentPlan(CONTROLLER, "system", requirements / "controller.txt"),
        EnvironmentPlan(TOOLKIT, "system", requirements / "toolkit.txt"),
        *(plan_flow(flow, interpreter) for flow in flows),
    ]


def plan_flow(flow: Path, interpreter: Interpreter) -> EnvironmentPlan:
    """Return the environment of the flow in the directory *flow*; errors as in :func:`plan_environments`.

    With the interpreter conda, a flow that has a requirements lock only still gets the nodes' own Python.
    """
    lock, requirements = flow / LOCK_NAME, flow / REQUIREMENTS_NAME
    if interpreter == "conda" and lock.is_file():
        return EnvironmentPlan(flow.name, "conda", lock, flow)
    if requirements.is_file():
        return EnvironmentPlan(flow.name, "system", requirements, flow)
    if lock.is_file():
        packages = _conda_packages(flow / "pixi.toml")
        named = f" ({', '.join(packages)})" if packages else ""
        raise ResolutionError(
            f"The flow {flow} has conda packages only{named}, which the nodes' own Python cannot take: build with "
            f"--python conda where the channels can be reached, or lock wheels for it in {requirements.name} "
            "(uv pip compile --universal --generate-hashes)."
        )
    raise ResolutionError(f"The flow {flow} has neither {LOCK_NAME} nor {REQUIREMENTS_NAME}: lock its packages first.")


def find_flows(root: Path) -> list[Path]:
    """Return the flow directories of the checkout at *root*."""
    directory = root / "flows"
    if not directory.is_dir():
        return []
    files = ("main.py", LOCK_NAME, REQUIREMENTS_NAME)
    return sorted(path for path in directory.iterdir() if any((path / name).is_file() for name in files))


def check_flow_names(flows: Iterable[Path]) -> None:
    """Raise UsageError unless every one of *flows* is a directory with a name of its own that paths can hold."""
    seen: dict[str, Path] = {}
    for flow in flows:
        if not flow.is_dir():
            raise UsageError(f"The flow {flow} is no directory: give the directory that has its main.py with --flow.")
        if not _FLOW_NAME.fullmatch(flow.name) or flow.name in RESERVED_NAMES:
            raise UsageError(
                f"The flow {flow} cannot be called {flow.name!r}: rename the directory (letters, digits, '.', '_', "
                f"'-'; not {', '.join(sorted(RESERVED_NAMES))})."
            )
        if flow.name in seen:
            raise UsageError(f"The flows {seen[flow.name]} and {flow} have the same name: rename one of them.")
        seen[flow.name] = flow


def _conda_packages(manifest: Path) -> list[str]:
    """Return the conda dependencies that pixi.toml names, Python left out."""
    try:
        dependencies = read_toml(manifest).get("dependencies", {})
    except (OSError, ValueError):
        return []
    return sorted(name for name in dependencies if name != "python")
