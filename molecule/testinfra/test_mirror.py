"""The controller serves its mirror inside the network: an author there uses it with uv, and with rattler as pixi does.

The service is set up here, as the documentation says, and taken away again. Attempts to leave the network count in the
scenario's last module.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from guide import CONTROLLER
from machines import Machines
from test_redeploy import Played
from testinfra.host import Host

# Not the controller: the service is for others.
AUTHOR = "pag-worker-1"
URL = f"http://{CONTROLLER}:8088"
SERVICE = "pag-mirror.service"
ANSIBLE = "pag-software-bundle/ansible"
TOOLKIT = "/opt/pag/toolkit/current"
WORK = "/var/tmp/pag-test-mirror"

# Answers with what the server said to each request, sent as it is: clients would tidy up a path with dots.
ASK = """
import http.client, json, sys

host, port, requests = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
answers = []
for method, path in requests:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    connection.putrequest(method, path, skip_accept_encoding=True)
    connection.putheader("Content-Length", "0")
    connection.endheaders()
    response = connection.getresponse()
    answers.append([response.status, response.read().decode("utf-8", "replace"), dict(response.getheaders())])
print(json.dumps(answers))
"""

# What pixi does with a channel, by the library that pixi is made of.
SOLVE_AND_INSTALL = """
import asyncio, json, os, sys
from pathlib import Path
from rattler import Channel, Gateway, VirtualPackage, install, solve

async def main(channel, specs, work):
    records = await solve(
        [Channel(channel)], specs, platforms=["linux-64", "noarch"],
        gateway=Gateway(cache_dir=work / "index"), virtual_packages=VirtualPackage.detect(),
    )
    await install(records, work / "prefix", cache_dir=work / "packages", show_progress=False)
    print(json.dumps({record.name.normalized: record.url for record in records}), flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2].split(","), Path(sys.argv[3])))
# The library's threads sometimes crash an interpreter that ends in the ordinary way.
os._exit(0)
"""


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    text: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Mirror:
    """The service, as an author on another machine uses it."""

    machines: Machines

    def play(self, *arguments: str) -> Played:
        """Run main.yml on the controller with *arguments*."""
        command = f"ansible-playbook -i inventory.yml main.yml {shlex.join(arguments)}"
        finished = subprocess.run(
            ["ssh", "-F", self.machines.ssh_config, CONTROLLER, f"cd {ANSIBLE} && {command}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Played(finished.returncode, finished.stdout)

    def run(self, command: str, *, stdin: str | None = None) -> str:
        """Run a command on the author's machine."""
        return self.machines.ssh(AUTHOR, command, stdin=stdin)

    def python(self, program: str, *arguments: str) -> str:
        """Run a program there with the toolkit's libraries."""
        command = f"cd / && PYTHONPATH={TOOLKIT} /usr/bin/python3 -B - {shlex.join(arguments)}"
        return self.run(command, stdin=program)

    def ask(self, *requests: tuple[str, str]) -> list[Answer]:
        """Send requests (method and path) from there."""
        parts = urlsplit(URL)
        answers = json.loads(self.python(ASK, str(parts.hostname), str(parts.port), json.dumps(requests)))
        return [Answer(*answer) for answer in answers]


@pytest.fixture(scope="module")
def checked(machines: Machines) -> Played:
    """How ``--check`` went before there was a service."""
    return Mirror(machines).play("--tags", "mirror", "--check")


@pytest.fixture(scope="module")
def mirror(machines: Machines, checked: Played) -> Iterator[Mirror]:
    """The service, until the end of this module."""
    mirror = Mirror(machines)
    played = mirror.play("--tags", "mirror")
    assert played.returncode == 0, played.output[-3000:]
    mirror.run(f"rm -rf {WORK} && mkdir {WORK}")
    yield mirror
    mirror.run(f"rm -rf {WORK}")
    assert mirror.play("--tags", "mirror", "-e", "mirror_state=absent").returncode == 0


def test_there_is_no_service_unless_it_is_asked_for(machines: Machines) -> None:
    assert "pag-mirror" not in machines.ssh(CONTROLLER, "ls /etc/systemd/system")
    listed = Mirror(machines).play("--list-tasks")
    assert "mirror : Serve the mirror" not in listed.output
    assert machines.ssh(CONTROLLER, "ss -Hltn 'sport = :8088'") == ""


def test_check_says_what_would_be_done_and_does_nothing(checked: Played) -> None:
    assert checked.returncode == 0, checked.output[-3000:]
    assert checked.changes > 0


def test_the_second_run_changes_nothing(mirror: Mirror) -> None:
    for arguments in ((), ("--check",)):
        again = mirror.play("--tags", "mirror", *arguments)
        assert (again.returncode, again.changes) == (0, 0), again.output[-3000:]


def test_only_the_mirrors_own_service_runs(mirror: Mirror, on: Callable[[str], Host]) -> None:
    controller = on(CONTROLLER)
    assert controller.service(SERVICE).is_running
    assert controller.service(SERVICE).is_enabled
    # The distribution's would show its example page.
    assert not controller.service("nginx.service").is_running
    assert not controller.service("nginx.service").is_enabled
    assert not controller.socket("tcp://0.0.0.0:80").is_listening
    assert not controller.file("/run/systemd/system/nginx.service").exists


def test_the_service_is_confined(mirror: Mirror, on: Callable[[str], Host]) -> None:
    properties = on(CONTROLLER).service(SERVICE).systemd_properties
    expected = {
        "DynamicUser": "yes",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateDevices": "yes",
        "CapabilityBoundingSet": "",
    }
    assert {name: properties.get(name, "") for name in expected} == expected
    # Of /opt/pag it sees the mirror alone.
    inside = f"nsenter --mount --target {properties['MainPID']} ls /opt/pag"
    assert on(CONTROLLER).check_output(inside).split() == ["mirror"]


def test_uv_installs_from_the_index(mirror: Mirror) -> None:
    uv = f"{TOOLKIT}/bin/uv"
    options = f"--no-config --cache-dir {WORK}/uv-cache"
    mirror.run(f"{uv} venv {options} --quiet --python /usr/bin/python3 {WORK}/venv")
    mirror.run(f"{uv} pip install {options} --python {WORK}/venv --index-url {URL}/pypi/simple ansible-core")
    assert "core" in mirror.run(f"{WORK}/venv/bin/ansible --version")


def test_rattler_solves_and_installs_from_the_channel(mirror: Mirror, scenario: str) -> None:
    # Without conda packages, the channel has what makes each release's own Python one.
    version = mirror.run("/usr/bin/python3 -c 'import sys; print(*sys.version_info[:2], sep=chr(46))'").strip()
    specs = "prefect,cowpy" if scenario == "conda" else f"python {version}.*"
    installed = json.loads(mirror.python(SOLVE_AND_INSTALL, f"{URL}/conda", specs, f"{WORK}/conda"))
    assert {spec.partition(" ")[0] for spec in specs.split(",")} <= set(installed)
    assert all(url.startswith(f"{URL}/conda/") for url in installed.values())
    module = "prefect, cowpy" if scenario == "conda" else "sys"
    program = f"import sys, {module}; print(sys.prefix)"
    assert mirror.run(f"{WORK}/conda/prefix/bin/python -c {shlex.quote(program)}") == f"{WORK}/conda/prefix\n"


def test_projects_are_found_with_and_without_a_slash(mirror: Mirror) -> None:
    redirect, page, index = mirror.ask(
        ("GET", "/pypi/simple/cryptography"), ("GET", "/pypi/simple/cryptography/"), ("HEAD", "/pypi/simple/")
    )
    assert (redirect.status, redirect.headers["Location"]) == (301, "/pypi/simple/cryptography/")
    assert (page.status, "cryptography-" in page.text) == (200, True)
    assert (index.status, index.text) == (200, "")


def test_nothing_can_be_written(mirror: Mirror, on: Callable[[str], Host]) -> None:
    path = "/conda/noarch/repodata.json"
    before = on(CONTROLLER).file(f"/opt/pag/mirror{path}").sha256sum
    methods = ("PUT", "DELETE", "POST", "PATCH", "MKCOL", "MOVE", "OPTIONS", "PROPFIND")
    answers = mirror.ask(*((method, path) for method in methods), ("PUT", "/pypi/new-1-py3-none-any.whl"))
    assert [answer.status for answer in answers] == [405] * (len(methods) + 1)
    assert on(CONTROLLER).file(f"/opt/pag/mirror{path}").sha256sum == before
    assert not on(CONTROLLER).file("/opt/pag/mirror/pypi/new-1-py3-none-any.whl").exists


@pytest.mark.parametrize(
    "path",
    [
        "/../manifest.json",
        "/conda/../../manifest.json",
        "/conda/%2e%2e/%2e%2e/manifest.json",
        "/conda/..%2f..%2fmanifest.json",
        "/pypi/../../../../etc/passwd",
        "//etc/passwd",
        "/manifest.json",
        "/environments/",
        "/flows/",
        "/airgap/pack.py",
        "/opt/pag/manifest.json",
        "/",
        "/conda/",
        "/conda/noarch/",
        "/pypi/",
        "/apt/",
        "/pypi/.hidden.part",
    ],
)
def test_nothing_but_the_repositories_can_be_read(mirror: Mirror, on: Callable[[str], Host], path: str) -> None:
    assert on(CONTROLLER).file("/opt/pag/manifest.json").exists
    (answer,) = mirror.ask(("GET", path))
    assert answer.status in (400, 403, 404), answer
    assert "root:" not in answer.text
    assert "format_version" not in answer.text


def test_links_lead_nowhere(mirror: Mirror, on: Callable[[str], Host]) -> None:
    link = Path("/opt/pag/mirror/pypi/linked.html")
    on(CONTROLLER).check_output(f"ln -s /etc/hostname {link}")
    try:
        (answer,) = mirror.ask(("GET", f"/pypi/{link.name}"))
    finally:
        on(CONTROLLER).check_output(f"rm {link}")
    assert answer.status == 403


def test_it_can_be_taken_away_again(mirror: Mirror, on: Callable[[str], Host]) -> None:
    for arguments in (("--check",), (), ()):
        played = mirror.play("--tags", "mirror", "-e", "mirror_state=absent", *arguments)
        assert played.returncode == 0, played.output[-3000:]
    assert played.changes == 0
    controller = on(CONTROLLER)
    assert not controller.file(f"/etc/systemd/system/{SERVICE}").exists
    assert not controller.file("/etc/pag/mirror-nginx.conf").exists
    assert controller.check_output("ss -Hltn 'sport = :8088'") == ""
