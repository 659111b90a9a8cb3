"""What is wrong with the site is refused before any node is touched.

Every inventory here has a worker whose limit is another than what is installed: a play that goes on would change it.
"""

from __future__ import annotations

import pytest
from refusing import CONTROLLER, SITE, Cluster, add_unreachable_worker, inventory, put

pytestmark = pytest.mark.usefixtures("operators_files")

_OTHER = {"pag_worker_1": {"cpu_worker_limit": 7}}
_WORKERS = ("pag-worker-1", "pag-worker-2")


@pytest.mark.parametrize("secret", ["prefect_basic_auth_key", "postgresql_password"])
def test_secrets_of_the_example(cluster: Cluster, secret: str) -> None:
    put(cluster, "inventory.yml", inventory(_WORKERS, **_OTHER))
    directory = f"{SITE}/ansible"
    cluster.do(
        CONTROLLER,
        f"cd {directory} && ansible-vault decrypt secrets.yml"
        f" && {{ grep -v '^{secret}:' secrets.yml; grep '^{secret}:' secrets.yml.example; }} > new"
        " && mv new secrets.yml",
    )
    with cluster.unchanged():
        cluster.playbook("main.yml").names("secrets.yml", secret, "example's value")


def test_a_node_that_cannot_be_reached(cluster: Cluster) -> None:
    add_unreachable_worker(cluster, "pag-worker-8", **_OTHER)
    with cluster.unchanged():
        cluster.playbook("main.yml", "--tags", "prefect-worker").names("pag-worker-8", "cannot be reached")


def test_a_node_with_a_full_disk(cluster: Cluster, fresh: str) -> None:
    put(cluster, "inventory.yml", inventory([*_WORKERS, fresh], **_OTHER))
    learn_host_key(cluster, fresh)
    with cluster.unchanged():
        cluster.playbook("main.yml", "--tags", "prefect-worker").names(fresh, "MB free", "are needed")


def test_a_node_of_another_release(cluster: Cluster, fresh: str) -> None:
    put(cluster, "inventory.yml", inventory([*_WORKERS, fresh], **_OTHER))
    learn_host_key(cluster, fresh)
    cluster.do(fresh, "sudo cp --preserve /usr/lib/os-release os-release")
    cluster.do(fresh, "sudo sed -i 's/^VERSION_ID=.*/VERSION_ID=\"11\"/' /usr/lib/os-release")
    cluster.forget()
    try:
        with cluster.unchanged():
            no_space = '{"preflight_free_space": {}}'
            refusal = cluster.playbook("main.yml", "--tags", "prefect-worker", "--extra-vars", no_space)
            refusal.names(fresh, "debian-11-x86_64", "not built for", "--target")
    finally:
        cluster.do(fresh, "sudo cp --preserve os-release /usr/lib/os-release")
        cluster.forget()


def learn_host_key(cluster: Cluster, name: str) -> None:
    """See that the controller knows the machine's host key; the testbed tells it when it adds a machine."""
    cluster.do(CONTROLLER, f"ssh -o BatchMode=yes {name} true")
