"""How a worker's runs are started: what they can be given, and the command that each becomes."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.workers.process import ProcessJobConfiguration, ProcessVariables
from pydantic import Field
from run_limits import NAMES

from pag_worker import gpus

_CLIENT = ("/usr/bin/python3", "-E", "-s", "-S", "-B", "/usr/local/lib/pag-run/client.py")
# What the dynamic linker and the C library take from the environment: what starts the run in the worker, and what
# stands for it there, is to have nothing of that. The broker takes the prefix off again.
_NOT_FOR_THE_CLIENT = re.compile("LD_.*|GLIBC_TUNABLES|GCONV_PATH|LOCPATH|NLSPATH")
_PREFIX = "PAG_RUN_"
_WORKERS_OWN = ("PAG_GPU_LEASE", "STATE_DIRECTORY")
# As Prefect names it on what a worker starts.
_FLOW_LABEL = "prefect.io/flow-name"


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

    def prepare_for_flow_run(self, flow_run: Any, *arguments: Any, **named: Any) -> None:
        """Have the run started in a box."""
        super().prepare_for_flow_run(flow_run, *arguments, **named)
        wrappers = [*self._lease(), self._client(flow_run)]
        self.command = compose(self.command or "python -m prefect.engine", wrappers)
        # Prefect 3.8 takes the command for its own otherwise, and leaves it out.
        self._command_configured = True
        self.env = for_the_run(self.env)

    def _client(self, flow_run: Any) -> list[str]:
        """Return the command that stands for the run in the worker."""
        flow = (self.labels or {}).get(_FLOW_LABEL) or ""
        limits = {name: getattr(self, name) for name in NAMES}
        given = [f"--limit={name}={value}" for name, value in limits.items() if value not in (None, "")]
        user = [f"--user={self.flow_user}"] if self.flow_user else []
        return [*_CLIENT, f"--run={flow_run.id}", f"--name={flow_run.name}", f"--flow={flow}", *user, *given]

    def _lease(self) -> list[list[str]]:
        """Return what takes the run's GPUs, before its box is asked for."""
        ids = os.environ.get("WORKER_GPU_IDS")
        # A worker without GPUs hides those of its node by its own environment.
        return [] if ids is None else [gpus.wrapper(ids.split(","), self.gpus)]


def for_the_run(env: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's variables so that they do nothing to the programs of ours that start it."""
    return {
        f"{_PREFIX}{name}" if _NOT_FOR_THE_CLIENT.fullmatch(name) else name: value
        for name, value in env.items()
        if name not in _WORKERS_OWN
    }


def compose(command: str, wrappers: Sequence[Sequence[str]]) -> str:
    """Return *command* in its *wrappers*, the outermost first: each is a command that runs what comes after ``--``."""
    parts = shlex.split(command)
    for wrapper in reversed(wrappers):
        parts = [*wrapper, "--", *parts]
    return shlex.join(parts)
