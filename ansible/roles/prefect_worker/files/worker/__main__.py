"""Run a Prefect worker that drains; the unit's arguments are below. Its environment has Prefect's settings."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import warnings

from pag_worker.reports import Reports
from prefect_api import PrefectApi
from worker_holds import Holds
from worker_record import Record


async def serve(options: argparse.Namespace) -> None:
    """Run the worker until it is told to stop."""
    # It takes the place of Prefect's own class in Prefect's list of types, as it should.
    warnings.filterwarnings("ignore", message="Type 'DrainingWorker'")
    from pag_worker.worker import DrainingWorker
    from prefect.logging.configuration import setup_logging
    from prefect.settings import PREFECT_WORKER_HEARTBEAT_SECONDS

    setup_logging()
    record = Record.of(options.kind)
    record.open()
    api = PrefectApi(os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"])
    worker = DrainingWorker(
        name=options.name,
        work_pool_name=options.pool,
        limit=options.limit,
        heartbeat_interval_seconds=int(PREFECT_WORKER_HEARTBEAT_SECONDS.value()),
    )
    worker.equip(record, Reports(api, options.name, options.pool), Holds.of(options.kind), options.stop_seconds)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, worker.stop)
    loop.add_signal_handler(signal.SIGINT, worker.stop)
    loop.add_signal_handler(signal.SIGUSR1, worker.stop_now)
    tasks = [
        asyncio.ensure_future(work) for work in (worker.wait_for_the_end(), worker.look_after_runs(), worker.start())
    ]
    ended, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for task in ended:
        task.result()


def main() -> None:
    """Take the arguments."""
    parser = argparse.ArgumentParser(prog="pag-worker", description=__doc__)
    parser.add_argument("--kind", required=True, help="cpu or gpu: whose markers count")
    parser.add_argument("--pool", required=True, help="the work pool")
    parser.add_argument("--name", required=True, help="the worker's name in the UI")
    parser.add_argument("--limit", required=True, type=int, help="how many runs it has at once")
    parser.add_argument("--stop-seconds", required=True, type=float, help="what its runs get when it is stopped")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
