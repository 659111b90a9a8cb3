"""What a flow run's box is: its directories, its environment and its unit. Standard library only.

Nothing in it is newer than systemd 249.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from run_gpus import LOCKS
from run_limits import unit_properties

_SAFE = re.compile(r"[^A-Za-z0-9._-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# What systemd and the login gave the worker, which is not the run's.
_WORKERS_OWN = {
    *("HOME", "USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "TMPDIR", "PREFECT_HOME", "PREFECT_PROFILES_PATH"),
    *("INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "NOTIFY_SOCKET", "MAINPID", "MANAGERPID"),
    *("STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CACHE_DIRECTORY", "LOGS_DIRECTORY", "CONFIGURATION_DIRECTORY"),
    *("CREDENTIALS_DIRECTORY", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID"),
    *("MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE"),
}

_PREFIX = "PAG_RUN_"
"""Of variables that are the run's, and nothing to the programs that start it."""

_SANDBOX = (
    "Type=exec",
    # The flow is told to stop as ever, and ends what it started; what is left then is killed with it.
    "KillMode=mixed",
    "TimeoutStopSec=30",
    "OOMPolicy=kill",
    # When the node itself is out of memory, runs go before the worker and what else the node is for.
    "OOMScoreAdjust=500",
    "UMask=0027",
    "LimitNOFILE=65536",
    # Without rights to gain, modules, clock, host name and the kernel's log are out of reach; each further filter of
    # system calls would cost a start some milliseconds.
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "ProtectProc=invisible",
    # Not by ProtectKernelTunables= and ProtectControlGroups=: they make a dozen mounts more, for files that are root's,
    # and a start would take a third longer. systemd 257 leaves control groups out of what is below /sys.
    "ReadOnlyPaths=/sys /sys/fs/cgroup /proc/sys",
    "SystemCallArchitectures=native",
    "KeyringMode=private",
    # Settings and states of ours that the mode of their directory leaves open.
    "InaccessiblePaths=-/etc/prefect",
    "InaccessiblePaths=-/var/lib/prefect-worker-cpu",
    "InaccessiblePaths=-/var/lib/prefect-worker-gpu",
)


@dataclass(frozen=True)
class Node:
    """What the node's settings say."""

    user: str
    home: Path
    """The service user's."""
    write_paths: tuple[str, ...]
    """What runs may write to besides what is their own."""
    flow_users: tuple[str, ...] = ()
    """Whom a run may be in the place of the service user."""
    close_gpus: bool = True
    """Whether the device files of GPUs that a run has not leased are closed to it."""


@dataclass(frozen=True)
class Box:
    """The box of one run."""

    node: Node
    user: str
    """Who it is."""
    unit: str
    flow: str
    """Whose results it keeps."""
    directory: Path
    """The run's own, on the node."""
    notes: Path
    """Root's, for its environment and its end."""
    code: Path | None
    """The directory of the flow's code, of which the run has a copy in the same place."""
    start: str
    """Where it starts."""
    gpus: tuple[str, ...] = ()
    """What it has leased."""
    closed: tuple[str, ...] = ()
    """What is closed to it besides: other GPUs' device files."""

    @property
    def results(self) -> Path:
        """Where its results stay: each user's apart, who could not read the others'."""
        others = "" if self.user == self.node.user else f"@{self.user}"
        return self.node.home / "storage" / f"{self.flow}{others}"

    @property
    def home(self) -> Path:
        """The run's HOME."""
        return self.directory / "home"

    @property
    def copy(self) -> Path:
        """The copy of the code."""
        return self.directory / "code"


def make_box(node: Node, user: str, run: str, instance: str, flow: str, directory: str, notes: Path) -> Box:
    """Return the box of *user*'s run *run* of *flow*, which the worker would start in *directory*."""
    name = f"{_SAFE.sub('-', run)}-{instance}"
    flows = node.home / "flows"
    start = Path(directory)
    code = None
    if start.is_relative_to(flows) and len(parts := start.relative_to(flows).parts) >= 2 and ".." not in parts:
        code, flow = flows / parts[0] / parts[1], parts[0]
    own = node.home / "runs" / name
    # The worker's own directory for a run without one is in its own /tmp.
    elsewhere = start.is_relative_to("/tmp") or start.is_relative_to("/var/tmp")  # noqa: S108
    return Box(
        node=node,
        user=user,
        unit=f"flow-run-{name}.service",
        flow=_SAFE.sub("-", flow).lstrip(".-") or "unnamed",
        directory=own,
        notes=notes,
        code=code,
        start=str(own / "home") if elsewhere else directory,
    )


def _holding(locks: Sequence[str]) -> list[str]:
    """Return what has the run hold its leases itself: whoever is killed besides, they last until it has gone."""
    return [part for lock in locks for part in ("/usr/bin/flock", "--shared", "--nonblock", "--no-fork", lock)]


def environment_of(box: Box, given: Mapping[str, str]) -> dict[str, str]:
    """Return the run's environment: what the worker gives it, without what is the worker's own."""
    meant = {name.removeprefix(_PREFIX): value for name, value in sorted(given.items())}
    kept = {name: value for name, value in meant.items() if name not in _WORKERS_OWN and _VARIABLE.fullmatch(name)}
    own = {"HOME": str(box.home), "PREFECT_HOME": str(box.home / ".prefect")}
    return {"PREFECT_LOCAL_STORAGE_PATH": str(box.results)} | kept | own


def environment_file(environment: Mapping[str, str]) -> str:
    """Return an environment as systemd reads it from a file."""
    lines = []
    for name, value in sorted(environment.items()):
        escaped = re.sub(r'([\\"`$])', r"\\\1", value)
        lines.append(f'{name}="{escaped}"\n')
    return "".join(lines)


def command_line(box: Box, limits: Mapping[str, str], binds_to: str, label: str, command: Sequence[str]) -> list[str]:
    """Return the command that runs *command* in the box and waits for it."""
    properties = [
        *_SANDBOX,
        *unit_properties(limits),
        f"BindsTo={binds_to}",
        f"After={binds_to}",
        # When the node is shut down, the worker waits for its runs first.
        "Before=prefect-worker-cpu.service prefect-worker-gpu.service",
        f"EnvironmentFile={box.notes}/env",
        f"WorkingDirectory={box.start}",
        f"TemporaryFileSystem={box.node.home}/runs:ro {box.node.home}/flows:ro {box.node.home}/storage:ro",
        f"BindPaths={box.home} {box.results}",
        f"InaccessiblePaths=-{box.node.home}/.prefect",
        *[f"ReadWritePaths=-{path}" for path in box.node.write_paths],
    ]
    if box.code is not None:
        properties.append(f"BindPaths={box.copy}:{box.code}")
    if box.closed:
        properties.append(f"InaccessiblePaths={' '.join(f'-{path}' for path in box.closed)}")
    locks = [f"{LOCKS}/{gpu}.lock" for gpu in box.gpus]
    # The way to ask for runs is in there too.
    if locks:
        properties += [f"TemporaryFileSystem={LOCKS.parent}:ro", f"BindReadOnlyPaths={' '.join(locks)}"]
    else:
        properties.append(f"InaccessiblePaths=-{LOCKS.parent}")
    program = [*_holding(locks), *(command if command[0].startswith("/") else ["/usr/bin/env", *command])]
    return [
        *("systemd-run", "--quiet", "--pipe", "--wait", "--slice=pag-run.slice"),
        *(f"--unit={box.unit}", f"--description={label}", f"--uid={box.user}"),
        *[f"--property={entry}" for entry in properties],
        "--",
        # systemd replaces what looks like a variable.
        *[part.replace("$", "$$") for part in program],
    ]
