"""What cannot be deployed is refused, and the deployments and environments that are there stay as they are.

Each flow here is a changed copy of a demo flow that is deployed: a playbook that goes on would install and deploy it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import bad_packs
import pytest
from prefect_api import ApiError
from refusing import BUNDLE, CONTROLLER, Cluster, Refusal, add_unreachable_worker, refusal_of_program

FLOWS = "refusals/flows"
FLOW = "demo1"
ENTRYPOINT = "main.py:my_workflow"
PLAYBOOK = "prefect-flow-deployment.yml"


@pytest.fixture
def flow(cluster: Cluster) -> Iterator[str]:
    """Return the path on the controller of a changed copy of a flow that is deployed."""
    path = f"{FLOWS}/{FLOW}"
    copy = f"rm -rf {FLOWS} && mkdir -p {FLOWS} && cp -r {BUNDLE}/flows/{FLOW} {path}"
    cluster.do(CONTROLLER, f"{copy} && echo '# changed' >> {path}/main.py")
    yield path
    cluster.do(CONTROLLER, f"rm -rf {FLOWS}")


def deploy(cluster: Cluster, flow: str, **arguments: object) -> Refusal:
    """Deploy as the README says."""
    given = {"flow_dir": f"/home/operator/{flow}", "entrypoint": ENTRYPOINT} | arguments
    return cluster.playbook(PLAYBOOK, "--extra-vars", json.dumps(given))


def pack(cluster: Cluster, flow: str, fault: str, environment: str = FLOW) -> None:
    """Put a pack of one of the bundle's environments, with the fault, into the flow's directory."""
    description = f"/opt/pag/environments/{environment}.debian-12-x86_64.json"
    program = Path(bad_packs.__file__).read_text()
    cluster.do(CONTROLLER, f"python3 - {description} /opt/pag/mirror {fault} {flow}/packed-env.tar", stdin=program)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("platform", ["linux-aarch64", "linux-64"]),
        ("sdist", [bad_packs.SDIST]),
        ("parent", [bad_packs.LEAVING["parent"]]),
        ("wheel", ["typing_extensions-", "requirements.txt"]),
    ],
)
def test_a_pack(cluster: Cluster, flow: str, fault: str, words: list[str]) -> None:
    pack(cluster, flow, fault)
    with cluster.unchanged():
        deploy(cluster, flow).names("packed-env.tar", *words)


def test_more_packs(cluster: Cluster, flow: str) -> None:
    """The playbook's own command for packs, alone: the playbook takes ten times as long to come to it."""
    faults = {
        "absolute": bad_packs.LEAVING["absolute"],
        "hidden-parent": bad_packs.LEAVING["hidden-parent"],
        "symlink": bad_packs.LINK,
        "hardlink": bad_packs.LINK,
        "truncated": "cut short",
    }
    options = (
        "--mirror=/opt/pag/mirror --environments=/opt/pag/environments --manifest=/opt/pag/manifest.json"
        f" --name={FLOW} --target=debian-12-x86_64 --flow-dir=$HOME/{flow}"
    )
    with cluster.unchanged():
        for fault, words in faults.items():
            pack(cluster, flow, fault)
            command = f"cd /opt/pag && sudo python3 -B -m airgap.pack import ~/{flow}/packed-env.tar {options}"
            refusal_of_program(cluster.run(CONTROLLER, command)).names("packed-env.tar", words)


@pytest.mark.parametrize(
    ("entrypoint", "words"),
    [
        ("elsewhere.py:my_workflow", ["elsewhere.py", "does not exist"]),
        ("main.py:goodbye_workflow", ["main.py", "no function goodbye_workflow"]),
    ],
)
def test_an_entrypoint_that_does_not_exist(cluster: Cluster, flow: str, entrypoint: str, words: list[str]) -> None:
    with cluster.unchanged():
        deploy(cluster, flow, entrypoint=entrypoint).names(*words)


@pytest.mark.parametrize("environment", [None, "demo2"], ids=["its environment", "new environment"])
def test_an_entrypoint_that_does_not_import(cluster: Cluster, flow: str, environment: str | None) -> None:
    """The flow has to be on a worker to be imported; neither its code nor its environment may stay there."""
    if environment:
        pack(cluster, flow, "none", environment)
    cluster.do(CONTROLLER, f"sed -i '1i import package_that_nobody_has' {flow}/main.py")
    # A docstring and future imports come first in a file.
    cluster.do(CONTROLLER, f"sed -i '/^from __future__ /d' {flow}/main.py")
    # Caches are caches.
    stays = "/opt/prefect/cache/"
    with cluster.unchanged(but=stays if environment else None):
        deploy(cluster, flow).names("main.py", "package_that_nobody_has")


def test_an_unknown_work_pool(cluster: Cluster, flow: str) -> None:
    with cluster.unchanged():
        deploy(cluster, flow, work_pool="nowhere-pool").names("work pool", "nowhere-pool")


@pytest.mark.parametrize("schedule", ["every day at noon", "0 25 * * *"])
def test_a_schedule_that_does_not_parse(cluster: Cluster, flow: str, schedule: str) -> None:
    with cluster.unchanged():
        deploy(cluster, flow, schedule=schedule).names("schedule", schedule)


def test_a_worker_that_cannot_be_reached(cluster: Cluster, flow: str, operators_files: None) -> None:
    add_unreachable_worker(cluster, "pag-worker-8")
    with cluster.unchanged():
        deploy(cluster, flow).names("pag-worker-8", "cannot be reached")


def test_a_server_that_is_down(cluster: Cluster, flow: str) -> None:
    cluster.do("pag-server", "sudo systemctl stop prefect-server.service")
    cluster.forget()
    try:
        with cluster.unchanged(ask_server=False):
            deploy(cluster, flow).names("Prefect server", "does not answer")
    finally:
        cluster.do("pag-server", "sudo systemctl start prefect-server.service")
        wait_for_server(cluster)
        cluster.forget()


def wait_for_server(cluster: Cluster) -> None:
    """Wait until the server answers again."""
    deadline = time.monotonic() + 60
    while True:
        try:
            cluster.api.request("GET", "/health", timeout=5)
        except ApiError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
        else:
            return
