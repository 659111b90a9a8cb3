"""Packs that flows are deployed from: thin ones, one for each target, and pixi-pack's executables.

An author packs on the connected machine, from the have.json that the site wrote, and carries the directory over.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster_site import CPU_WORKERS, Secrets
from guide import CONTROLLER
from machines import Machines
from prefect_api import PrefectApi
from test_flows import expect_in_log
from test_redeploy import ANSIBLE, Played

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

from executables import make_executable  # noqa: E402

PLACE = "packs"
"""Where the flow directories are on the controller, in the operator's home."""
FLOW = "packed"
SHARED = "prefect"
"""Of the flow's packages, one that every site has."""
OWN = "cowpy"
"""One that not every environment has: it is brought to the workers again when it is needed."""
FOR_TARGETS = ("--target", "debian-12", "--target", "debian-13")
MAIN = f'''
import sys

from cowpy import cow
from prefect import flow


@flow(name="{FLOW}", log_prints=True)
def my_workflow() -> None:
    print(cow.Cowacter().milk("packed"))
    print(f"environment {{sys.prefix}}")
'''


@dataclass(frozen=True)
class Site:
    """The connected machine's flow directory, and the controller."""

    machines: Machines
    flow: Path
    have: Path

    def pack(self, *arguments: str) -> None:
        """Pack the flow anew, on the connected machine."""
        for pack in self.flow.glob("packed-env*"):
            pack.unlink()
        # The operator's python3 is the system's.
        python = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin")
        assert python
        command = [python, "build-bundle.py", "pack-flow", str(self.flow), "--python", "system", "--quiet", *arguments]
        subprocess.run(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, check=True)

    def deploy(self, *arguments: str) -> Played:
        """Carry the directory over and deploy it."""
        self.machines.ssh(CONTROLLER, f"rm -rf {PLACE} && mkdir {PLACE}")
        self.machines.copy([self.flow], CONTROLLER, PLACE)
        given = [f"flow_dir=~/{PLACE}/{FLOW}", "entrypoint=main.py:my_workflow", *arguments]
        options = shlex.join(part for argument in given for part in ("-e", argument))
        command = f"cd {ANSIBLE} && ansible-playbook -i inventory.yml prefect-flow-deployment.yml {options}"
        finished = subprocess.run(
            ["ssh", "-F", self.machines.ssh_config, CONTROLLER, command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Played(finished.returncode, finished.stdout)

    def mirror(self) -> list[str]:
        """Return what is in the controller's mirror, its indexes and the descriptions, with the sums."""
        listed = "find mirror environments -type f -exec sha256sum {} +"
        return sorted(self.machines.ssh(CONTROLLER, f"cd /opt/pag && {listed}").splitlines())

    def nodes_mirrors(self) -> dict[str, list[str]]:
        """Return what is in the workers' mirrors."""
        listed = "cd /opt/pag && find mirror environments -type f"
        return {name: sorted(self.machines.ssh(name, listed).splitlines()) for name in CPU_WORKERS}


def run(api: PrefectApi) -> str:
    """Run the flow and return its log."""
    started = api.start(f"{FLOW}/my_workflow")
    assert api.wait(started)["state_type"] == "COMPLETED"
    return expect_in_log(api, started, r"environment /opt/prefect/envs/")


@pytest.fixture(scope="module")
def api(machines: Machines, secrets: Secrets) -> Iterator[PrefectApi]:
    """The server's API, for the whole module."""
    with machines.tunnel() as port:
        yield PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth)


@pytest.fixture(scope="module")
def site(machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A flow directory with demo2's locks, and the have.json of this site."""
    directory = tmp_path_factory.mktemp("packs")
    shutil.copytree(REPOSITORY / "flows/demo2", directory / FLOW)
    (directory / FLOW / "main.py").write_text(MAIN)
    machines.ssh(CONTROLLER, f"cd {ANSIBLE} && ansible-playbook -i inventory.yml have.yml -e have_file=~/have.json")
    (directory / "have.json").write_text(machines.ssh(CONTROLLER, "cat have.json"))
    yield Site(machines, directory / FLOW, directory / "have.json")
    machines.ssh(CONTROLLER, f"rm -rf {PLACE} have.json have.json.sig")


def test_a_thin_pack_relies_on_what_the_site_has(site: Site, machines: Machines) -> None:
    """And is refused, with a list, when the site has it no more; then nothing is changed."""
    site.pack("--since", str(site.have))
    packs = list(site.flow.glob("packed-env*"))
    assert packs
    assert max(pack.stat().st_size for pack in packs) < 1_000_000
    (wheel,) = machines.ssh(CONTROLLER, f"ls /opt/pag/mirror/pypi/{SHARED}-*.whl").split()
    machines.ssh(CONTROLLER, f"sudo mv {wheel} /opt/pag/held-back")
    try:
        before = site.mirror()
        refused = site.deploy()
        after = site.mirror()
    finally:
        machines.ssh(CONTROLLER, f"sudo mv /opt/pag/held-back {wheel}")
    assert refused.returncode != 0
    assert "is thin and relies on 1 packages" in refused.output, refused.output[-3000:]
    assert f"pypi/{wheel.rpartition('/')[2]}" in refused.output
    assert after == before


def test_code_that_does_not_import_leaves_the_mirrors_as_they_were(site: Site, machines: Machines) -> None:
    site.pack(*FOR_TARGETS)
    for name in CPU_WORKERS:
        machines.ssh(name, f"sudo rm -f /opt/pag/mirror/pypi/{OWN}-*")
    before, nodes_before = site.mirror(), site.nodes_mirrors()
    (site.flow / "main.py").write_text("import package_that_nobody_has\n" + MAIN)
    refused = site.deploy()
    (site.flow / "main.py").write_text(MAIN)
    assert refused.returncode != 0
    assert "package_that_nobody_has" in refused.output, refused.output[-3000:]
    assert (site.mirror(), site.nodes_mirrors()) == (before, nodes_before)


def test_a_thin_pack_deploys(site: Site, machines: Machines, api: PrefectApi) -> None:
    site.pack("--since", str(site.have))
    played = site.deploy()
    assert played.returncode == 0, played.output[-3000:]
    run(api)
    for name in CPU_WORKERS:
        runs = f"for run in /opt/prefect/envs/{FLOW}-*/run; do $run python -c 'import cowpy, prefect' || exit 1; done"
        machines.ssh(name, runs)
        # Packs travel by themselves, and are no part of the code.
        assert "packed-env" not in machines.ssh(name, f"find /opt/prefect/flows/{FLOW}/ -type f")
    again = site.deploy()
    assert (again.returncode, again.changes) == (0, 0), again.output[-3000:]


def test_executables_of_pixi_pack_deploy(site: Site, api: PrefectApi) -> None:
    """One for each target; each node takes its own."""
    site.pack(*FOR_TARGETS)
    assert len(list(site.flow.glob("packed-env.*.tar"))) == 2
    for pack in list(site.flow.glob("packed-env.*.tar")):
        name = pack.name.replace("packed-env.", "environment.").removesuffix(".tar")
        (site.flow / f"{name}.sh").write_bytes(make_executable(pack.read_bytes(), b"#!/bin/sh\n"))
        pack.unlink()
    played = site.deploy("packed_env=environment.sh")
    assert played.returncode == 0, played.output[-3000:]
    run(api)
