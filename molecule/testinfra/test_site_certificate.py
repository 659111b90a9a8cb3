"""A site's own certificate takes the place of the one that the controller's authority made, and goes again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from cluster_site import SERVER, Secrets
from guide import CONTROLLER
from machines import Machines
from playbooks import DIRECTORY, Result, kept_inventory, play, played
from prefect_api import PrefectApi
from test_status import document, problems
from testinfra.host import Host

On = Callable[[str], Host]

_DIRECTORY = "/etc/ssl/site"
_FILES = {
    "server_certificate": f"{_DIRECTORY}/server.crt",
    "server_certificate_key": f"{_DIRECTORY}/server.key",
    "server_certificate_ca": f"{_DIRECTORY}/authority.crt",
}
# An authority of the site's, and what it signs for the server and for another machine.
_MAKE = f"""set -e
sudo install -d -m 0755 {_DIRECTORY}; cd {_DIRECTORY}
key() {{ sudo openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out $1.key; }}
key authority
sudo openssl req -x509 -key authority.key -subj "/CN=The site's authority" -days 30 -out authority.crt
for name in server other; do
  key $name
  sudo openssl req -new -key $name.key -subj "/CN=$name" -out $name.csr
  echo "subjectAltName=DNS:$([ $name = server ] && echo {SERVER} || echo other)" | sudo tee extensions >/dev/null
  sudo openssl x509 -req -in $name.csr -CA authority.crt -CAkey authority.key -CAcreateserial -days 20 \\
    -extfile extensions -out $name.crt
done
"""


def _switch(machines: Machines) -> Result:
    """Have the server get another certificate while no run is under way, as docs/operations.md says it."""
    played(machines, "drain.yml", "-e", "pool=cpu-pool")
    result = played(machines, "main.yml")
    played(machines, "resume.yml", "-e", "pool=cpu-pool")
    return result


def _write(machines: Machines, files: dict[str, str]) -> None:
    text = machines.ssh(CONTROLLER, f"cat {DIRECTORY}/inventory.yml")
    lines = "".join(f"    {name}: {path}\n" for name, path in files.items())
    machines.write(CONTROLLER, f"{DIRECTORY}/inventory.yml", re.sub("  vars:\n", f"  vars:\n{lines}", text, count=1))


def _issuer(machines: Machines, node: str) -> str:
    """Return who signed the certificate that the server shows, to a node that verifies it with what it has."""
    command = (
        f"openssl s_client -connect {SERVER}:4200 -CAfile /etc/pag/ca.crt -verify_return_error </dev/null 2>/dev/null"
    )
    return machines.ssh(node, f"{command} | openssl x509 -noout -issuer").strip()


@pytest.fixture(scope="module")
def own(machines: Machines) -> Iterator[Result]:
    """The cluster with the site's certificate; it gets the authority's back."""
    machines.ssh(CONTROLLER, _MAKE)
    with kept_inventory(machines):
        _write(machines, _FILES)
        yield _switch(machines)
    _switch(machines)


@pytest.fixture(scope="module")
def node(machines: Machines) -> str:
    """A worker."""
    return next(name for name in sorted(machines.addresses()) if name.startswith("pag-worker-"))


@pytest.mark.usefixtures("own")
def test_the_server_shows_the_sites_certificate_to_everybody(machines: Machines, node: str, on: On) -> None:
    for name in (node, SERVER, CONTROLLER):
        assert _issuer(machines, name) == "issuer=CN = The site's authority"
    key = on(SERVER).file("/etc/pag/server.key")
    assert (key.user, key.mode) == ("root", 0o600)


@pytest.mark.usefixtures("own")
def test_runs_complete_and_the_ui_is_there(machines: Machines, secrets: Secrets) -> None:
    with machines.tunnel() as port:
        api = PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth)
        assert api.wait(api.start("demo1/my_workflow"))["state_type"] == "COMPLETED"


@pytest.mark.usefixtures("own")
def test_status_warns_of_its_end_and_nothing_renews_it(machines: Machines) -> None:
    assert [said for said in problems(document(machines)) if re.search(r"server\.crt.*\b(19|20) d", said)]
    assert played(machines, "certificates.yml").changes == 0


@pytest.mark.usefixtures("own")
def test_a_second_run_changes_nothing(machines: Machines) -> None:
    assert played(machines, "main.yml", "-e", "receipt_use=false").changes == 0


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("files", "said"),
    [
        (_FILES | {"server_certificate": f"{_DIRECTORY}/other.crt"}, "it must be of the key"),
        (
            _FILES
            | {"server_certificate": f"{_DIRECTORY}/other.crt", "server_certificate_key": f"{_DIRECTORY}/other.key"},
            f"name {SERVER} among its alternative names",
        ),
        ({"server_certificate": _FILES["server_certificate"]}, "name all three in inventory.yml"),
    ],
    ids=["another key", "another name", "no key"],
)
def test_a_wrong_one_is_refused_before_anything_changes(machines: Machines, files: dict[str, str], said: str) -> None:
    with kept_inventory(machines):
        text = machines.ssh(CONTROLLER, f"cat {DIRECTORY}/inventory.yml")
        machines.write(CONTROLLER, f"{DIRECTORY}/inventory.yml", re.sub("    server_certificate.*\n", "", text))
        _write(machines, files)
        result = play(machines, "main.yml", "--tags", "prefect-server")
    assert result.returncode != 0
    assert said in result.text
    assert result.changes == 0
