"""How a worker's runs are started: what they can be given, and the command that each becomes."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.workers.process import ProcessJobConfiguration, ProcessVariables
from pydantic import Field, PrivateAttr
from run_limits import NAMES

from pag_worker import gpus, hooks

_CLIENT = ("/usr/bin/python3", "-E", "-s", "-S", "-B", "/usr/local/lib/pag-run/client.py")
# What the dynamic linker and the C library take from the environment: what starts the run in the worker, and what
# stands for it there, is to have nothing of that. The broker takes the prefix off again.
_NOT_FOR_THE_CLIENT = re.compile("LD_.*|GLIBC_TUNABLES|GCONV_PATH|LOCPATH|NLSPATH")
_PREFIX = "PAG_RUN_"
_WORKERS_OWN = ("PAG_GPU_LEASE", "STATE_DIRECTORY")
# As Prefect names it on what a worker starts.
_FLOW_LABEL = "prefect.io/flow-name"
_HOOKS_SECONDS = 300
"""How long the hooks of a run may take together."""


class BoxVariables(ProcessVariables):
    """What a deployment's job variables can be."""

    memory_max: str | None = Field(default=None, title="Memory")
    cpu_weight: int | str | None = Field(default=None, title="CPU Weight")
    tasks_max: int | str | None = Field(default=None, title="Processes")
    time_max: int | str | None = Field(default=None, title="Time")
    gpus: int = Field(default=1, ge=0, title="GPUs")
    flow_user: str | None = Field(default=None, title="Unix User")


class BoxConfiguration(ProcessJobConfiguration):
    """What a run is started with."""

    # Anything: what is wrong is refused with a sentence, as the run's state.
    memory_max: Any = Field(default=None)
    cpu_weight: Any = Field(default=None)
    tasks_max: Any = Field(default=None)
    time_max: Any = Field(default=None)
    gpus: int = Field(default=1, ge=0)
    flow_user: str | None = Field(default=None)

    _hooks: str | None = PrivateAttr(default=None)

    def prepare_for_flow_run(self, flow_run: Any, *arguments: Any, **named: Any) -> None:
        """Have the run started in a box."""
        super().prepare_for_flow_run(flow_run, *arguments, **named)
        engine = shlex.split(self.command or "python -m prefect.engine")
        limits = {name: getattr(self, name) for name in NAMES}
        self.command = compose(engine, [*self._lease(self.gpus), self._client(str(flow_run.id), flow_run.name, limits)])
        calling = hooks.command_for(engine)
        if calling is not None:
            client = self._client(
                hooks_of(flow_run), f"hooks of {flow_run.name}", limits | {"time_max": _HOOKS_SECONDS}
            )
            self._hooks = compose(calling, [*self._lease(0), client])
        # Prefect 3.8 takes the command for its own otherwise, and leaves it out.
        self._command_configured = True
        self.env = for_the_run(self.env)

    def hooks_command(self, kind: str) -> list[str] | None:
        """Return the command that calls the flow's hooks, of the kind ``cancellation`` or ``crashed``, in a box."""
        return None if self._hooks is None else [*shlex.split(self._hooks), kind]

    def _client(self, run: str, name: str, limits: Mapping[str, Any]) -> list[str]:
        """Return the command that stands for the run in the worker."""
        flow = (self.labels or {}).get(_FLOW_LABEL) or ""
        given = [f"--limit={key}={value}" for key, value in limits.items() if value not in (None, "")]
        user = [f"--user={self.flow_user}"] if self.flow_user else []
        return [*_CLIENT, f"--run={run}", f"--name={name}", f"--flow={flow}", *user, *given]

    def _lease(self, count: int) -> list[list[str]]:
        """Return what takes so many GPUs, before the box is asked for."""
        ids = os.environ.get("WORKER_GPU_IDS")
        # A worker without GPUs hides those of its node by its own environment.
        return [] if ids is None else [gpus.wrapper(ids.split(","), count)]


def hooks_of(flow_run: Any) -> str:
    """Return what the hooks of a run are called where runs have their ids."""
    return f"{flow_run.id}-hooks"


def for_the_run(env: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's variables so that they do nothing to the programs of ours that start it."""
    return {
        f"{_PREFIX}{name}" if _NOT_FOR_THE_CLIENT.fullmatch(name) else name: value
        for name, value in env.items()
        if name not in _WORKERS_OWN
    }


def compose(command: Sequence[str], wrappers: Sequence[Sequence[str]]) -> str:
    """Return *command* in its *wrappers*, the outermost first: each is a command that runs what comes after ``--``."""
    parts = list(command)
    for wrapper in reversed(wrappers):
        parts = [*wrapper, "--", *parts]
    return shlex.join(parts)
