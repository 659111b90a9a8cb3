"""Demo 3: one GPU for each run, on the GPU pool. Needs no GPU: it stops short of using it.

A GPU worker says which node it is (WORKER_ID) and which GPUs flows may use there (WORKER_GPU_IDS). For each there is a
global concurrency limit gpu-<WORKER_ID>-<id> with one slot: who holds the slot has the GPU.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prefect import flow, get_run_logger, task
from prefect.concurrency.sync import concurrency

# Seconds to ask for one GPU's slot before the next one is tried.
ASK_SECONDS = 1


@contextmanager
def one_gpu() -> Iterator[str]:
    """Hold one of this node's GPUs, waiting until there is a free one; gives its id."""
    worker, gpu_ids = os.environ["WORKER_ID"], os.environ["WORKER_GPU_IDS"].split(",")
    logger = get_run_logger()
    while True:
        for gpu_id in gpu_ids:
            slot = concurrency(f"gpu-{worker}-{gpu_id}", occupy=1, timeout_seconds=ASK_SECONDS, strict=True)
            try:
                slot.__enter__()
            except TimeoutError:
                continue
            try:
                yield gpu_id
            finally:
                slot.__exit__(None, None, None)
            return
        logger.info("All GPUs of %s (%s) are in use: waiting", worker, ", ".join(gpu_ids))


@task
def compute(seconds: float) -> str:
    """Stand in for what would use the GPU."""
    time.sleep(seconds)
    return os.environ["CUDA_VISIBLE_DEVICES"]


@flow(name="demo3")
def my_workflow(seconds: float = 2) -> str:
    """Take a GPU of the node, keep it for some seconds, and give it back."""
    logger = get_run_logger()
    with one_gpu() as gpu_id:
        # Before any library looks for GPUs, and inherited by what is started from here.
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu_id
        logger.info("CUDA_VISIBLE_DEVICES=%s on %s", gpu_id, os.environ["WORKER_ID"])
        used = compute(seconds)
    logger.info("GPU %s is free again", gpu_id)
    return used


if __name__ == "__main__":
    my_workflow()
