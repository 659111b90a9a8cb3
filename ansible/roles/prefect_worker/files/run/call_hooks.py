"""Call a flow's hooks after a run of it has ended: ``python call_hooks.py cancellation|crashed``.

By the flow's own Python, with the run's environment and in a box like the run's. Of the standard library and Prefect,
from 3.4 on.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from uuid import UUID

from prefect.flow_engine import load_flow, load_flow_run
from prefect.logging.loggers import flow_run_logger
from prefect.states import Cancelling, Crashed


def main(kind: str) -> None:
    """Call the flow's hooks of that kind, one after the other; what one does wrong is logged, and no other's matter."""
    run = load_flow_run(UUID(os.environ["PREFECT__FLOW_RUN_ID"]))
    logger = flow_run_logger(run)
    wanted = Cancelling() if kind == "cancellation" else Crashed()
    # What the server has may be another state meanwhile.
    state = run.state if run.state is not None and run.state.type == wanted.type else wanted
    try:
        flow = load_flow(run)
    except Exception:
        logger.warning("The flow could not be loaded to call its on_%s hooks.", kind, exc_info=True)
        return
    for hook in getattr(flow, f"on_{kind}_hooks") or []:
        name = getattr(hook, "__name__", type(hook).__name__)
        logger.info("Running hook %r in response to entering state %r", name, state.name)
        try:
            result = hook(flow, run, state)
            if inspect.iscoroutine(result):
                asyncio.run(result)
        except Exception:
            logger.exception("An error was encountered while running hook %r", name)
        else:
            logger.info("Hook %r finished running successfully", name)


if __name__ == "__main__":
    main(sys.argv[1])
