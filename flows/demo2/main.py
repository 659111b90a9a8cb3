"""Demo 2: a flow with a package of its own (cowpy), which nothing else in the cluster has."""

import sys

from cowpy import cow
from prefect import flow


@flow(log_prints=True)
def my_workflow(text: str = "Hello from an airgapped cluster") -> str:
    """Let a cow say *text*, and tell which interpreter runs this."""
    print(cow.Cowacter().milk(text))
    print(f"Python: {sys.executable}")
    print(f"Environment: {sys.prefix}")
    return sys.executable


if __name__ == "__main__":
    my_workflow()
