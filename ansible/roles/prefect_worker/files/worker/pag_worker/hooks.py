"""Keeps the code of flows out of the worker.

Prefect's worker imports a flow to look for hooks whenever a run of it crashed or was cancelled: with the worker's
rights, without the run's limits; and what that code does to its process, such as ending it, it does to the worker and
so to all runs of the node. A run's own engine calls hooks, in the run's box.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

_PLACES = ("prefect.workers.process", "prefect.runner.runner")
"""Where Prefect 3.8 and 3.4 have the function."""
_FUNCTION = "load_flow_from_flow_run"


async def without_hooks(*_: Any, **__: Any) -> SimpleNamespace:
    """Return what stands for a flow that has no hooks."""
    return SimpleNamespace(name=None, on_cancellation_hooks=[], on_crashed_hooks=[])


def keep_flows_out() -> None:
    """Have Prefect in this process load no flow. Raises RuntimeError when it has no such function any more."""
    found = [module for module in map(importlib.import_module, _PLACES) if hasattr(module, _FUNCTION)]
    if not found:
        raise RuntimeError(f"This Prefect has no {_FUNCTION}: nobody knows whether flows are imported into the worker.")
    for module in found:
        setattr(module, _FUNCTION, without_hooks)
