"""Has flows' hooks called in boxes of their own, after the runs, as Prefect's worker calls them in itself.

Prefect's worker imports a flow to look for hooks whenever a run of it crashed or was cancelled: with the worker's
rights, without the run's limits; and what that code does to its process, such as ending it, it does to the worker and
so to all runs of the node.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

_LOAD = ("load_flow_from_flow_run", ("prefect.workers.process", "prefect.runner.runner"))
_CALL = ("_run_hooks", ("prefect.runner._hook_runner", "prefect.runner.runner"))
"""Prefect's functions, and the modules in which Prefect 3.8 and 3.4 have them."""
_PROGRAM = "/usr/local/lib/pag-run/call_hooks.py"
_ENGINES = (["-m", "prefect.engine"], ["-m", "prefect.flow_engine"])


async def _nothing_loaded(*_: Any, **__: Any) -> SimpleNamespace:
    return SimpleNamespace(name=None, on_cancellation_hooks=[], on_crashed_hooks=[])


def keep_flows_out(call: Callable[[Any, Any], Awaitable[None]]) -> None:
    """Have Prefect in this process load no flow, and await *call* with a run and its state where it calls hooks.

    Raises RuntimeError when Prefect has no such functions any more.
    """

    async def call_hooks(_hooks: Any, flow_run: Any, _flow: Any, state: Any) -> None:
        await call(flow_run, state)

    for (name, places), replacement in ((_LOAD, _nothing_loaded), (_CALL, call_hooks)):
        found = [module for module in _present(places) if hasattr(module, name)]
        if not found:
            raise RuntimeError(f"This Prefect has no {name}: nobody knows whether flows are imported into the worker.")
        for module in found:
            setattr(module, name, replacement)


def _present(places: Sequence[str]) -> list[ModuleType]:
    return [importlib.import_module(place) for place in places if find_spec(place) is not None]


def command_for(engine: Sequence[str]) -> list[str] | None:
    """Return what calls a flow's hooks where *engine* runs the flow; None when that is no engine of Prefect's."""
    *python, option, module = ["", "", *engine]
    return [*python[2:], _PROGRAM] if [option, module] in _ENGINES and len(python) > 2 else None


async def run_to_its_end(
    command: Sequence[str], directory: str | os.PathLike[str], environment: Mapping[str, Any], *, show: bool
) -> int:
    """Run a command in a directory, with *environment* besides the worker's own, and return its status.

    With *show*, its output is the worker's. It is killed when whoever waits for it is cancelled.
    """
    given = {name: str(value) for name, value in environment.items() if value is not None}
    output = None if show else asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env={**os.environ, **given},
        cwd=directory,
    )
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
