"""``support-bundle.yml``: secrets are planted wherever they could be; the archive has none, and what it promises."""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from cluster_site import CPU_WORKERS, SERVER, Secrets
from guide import CONTROLLER
from machines import Machines

ANSIBLE = "pag-software-bundle/ansible"
ARCHIVE = "planted-support.tar.gz"
WORKER = CPU_WORKERS[0]
DROP_IN = "/etc/systemd/system/prefect-worker-cpu.service.d/planted.conf"

# What only its value tells: it is in secrets.yml, and known from there.
KNOWN = "Pl4nted/known+1 $x'\"y"
# What is told by how it looks, or by where it is: one for each place, so that a failure names the place.
WORD, ADDRESS, HEADER, TOKEN, KEY = (
    "Pl4nted-word",
    "Pl4nted-address",
    "Pl4nted-header",
    "Pl4nted-token",
    "UGw0bnRlZC1rZXk",
)
RUN, UNIT, SETTING, PROFILE = "Pl4nted-by-a-run", "Pl4nted-unit", "Pl4nted-setting", "Pl4nted-profile"
QUERY, PARAMETER, VARIABLE, BLOCK = "Pl4nted-query", "Pl4nted-parameter", "Pl4nted in a variable", "Pl4nted-block"
HOST, VAULT, FLOW = "Pl4nted-host", "6634326239653766356231316366", "Pl4nted-for-a-flow"

_JOURNAL = (
    f"connecting with password={WORD}",
    f"postgresql+asyncpg://prefect:{ADDRESS}@localhost/prefect",
    f"Authorization: Basic {base64.b64encode(f'admin:{HEADER}'.encode()).decode()}",
    json.dumps({"api_token": TOKEN}),
    "-----BEGIN OPENSSH PRIVATE KEY-----",
    KEY,
    "-----END OPENSSH PRIVATE KEY-----",
)
_PLANTED_INVENTORY = f"""
planted:
  vars:
    database_password: "{VARIABLE}"
    some_token: |
      first line
      {BLOCK}
    harmless: this is seen
"""
_PLANTED_HOST = f"""
ansible_become_password: {HOST}
other: !vault |
  $ANSIBLE_VAULT;1.1;AES256
  {VAULT}
"""


def spellings(secret: str) -> set[str]:
    """How a secret may be written."""
    encoded = {base64.b64encode(text.encode()).decode() for text in (secret, f"user:{secret}", f"x:{secret}:y")}
    return encoded | {
        secret,
        quote(secret, safe=""),
        quote_plus(secret),
        shlex.quote(secret),
        json.dumps(secret)[1:-1],
        secret.replace("'", "''"),
    }


def append(machines: Machines, machine: str, path: str, text: str) -> None:
    """Append to a file, of which a copy is kept beside it."""
    command = f"sudo cp -p {path} {path}.before && sudo tee -a {path} > /dev/null"
    machines.ssh(machine, command, stdin=text)


def append_secret(machines: Machines, text: str) -> None:
    """Append to the vault of secrets.yml, of which a copy is kept beside it."""
    vault = "ansible-vault decrypt secrets.yml && cat >> secrets.yml && ansible-vault encrypt secrets.yml"
    machines.ssh(CONTROLLER, f"cd {ANSIBLE} && cp -p secrets.yml secrets.yml.before && {vault}", stdin=text)


def say(machines: Machines, machine: str, unit: str, lines: list[str]) -> None:
    """Say something in a unit's journal, as its own processes would."""
    # The journal knows whose line it is by the control group of who wrote it.
    write = "while IFS= read -r line; do printf '%s\\n' \"$line\"; done; journalctl --sync"
    script = (
        f"until systemctl is-active --quiet {unit}; do sleep 0.2; done; g=$(systemctl show -P ControlGroup {unit}); "
        "for r in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; "
        "do if test -e $r$g/cgroup.procs; then echo $$ > $r$g/cgroup.procs; fi; done; "
        # The shell itself writes, and is alive until the journal has looked at it, however busy that is.
        f"exec systemd-cat -t planted sh -c {shlex.quote(write)}"
    )
    machines.ssh(machine, f"sudo bash -c {shlex.quote(script)}", stdin="".join(f"{line}\n" for line in lines))


@pytest.fixture(scope="module")
def planted(machines: Machines) -> Iterator[None]:
    """Plants the secrets, and takes them away again."""
    appended = (
        (SERVER, "/opt/prefect/.prefect/profiles.toml", f'OTHER = "{PROFILE}"\nPREFECT_API_KEY = "{PROFILE}"\n'),
        (SERVER, "/var/log/nginx/error.log", f'[error] 1#1: open() failed, request: "GET /x?blue={QUERY} HTTP/1.1"\n'),
        (SERVER, "/var/log/postgresql/postgresql-15-main.log", f"DETAIL:  parameters: $1 = '{PARAMETER}'\n"),
        (WORKER, "/etc/prefect/worker-cpu.env", f'FLOW_SETTING="{SETTING}"\n'),
        (CONTROLLER, f"{ANSIBLE}/inventory.yml", _PLANTED_INVENTORY),
    )
    for machine, path, text in appended:
        append(machines, machine, path, text)
    append_secret(machines, f"a_flows_login: {json.dumps(KNOWN)}\n")
    machines.ssh(
        CONTROLLER, f"mkdir {ANSIBLE}/host_vars && cat > {ANSIBLE}/host_vars/elsewhere.yml", stdin=_PLANTED_HOST
    )
    record = {"flow": "planted", "parameters": {"login": FLOW}, "job_variables": {"env": {"HARMLESS": FLOW}}}
    machines.ssh(
        CONTROLLER,
        "sudo mkdir -p /opt/pag/flows/planted/one && sudo tee /opt/pag/flows/planted/one/record.json > /dev/null",
        stdin=json.dumps(record),
    )
    machines.ssh(
        WORKER,
        f"sudo mkdir -p {Path(DROP_IN).parent} && sudo tee {DROP_IN} > /dev/null && sudo systemctl daemon-reload",
        stdin=f"[Service]\nEnvironment=HARMLESS={UNIT} \\\n  OTHER={UNIT}\n",
    )
    # More than is gathered, which is the newest.
    say(machines, SERVER, "prefect-server.service", ["something older"] * 6000)
    known = [f"known: {spelling}" for spelling in sorted(spellings(KNOWN))]
    say(machines, SERVER, "prefect-server.service", [*_JOURNAL, *known, "this line is seen"])
    say(machines, WORKER, "prefect-worker-cpu.service", [RUN, f"12:00:00.000 | INFO    | Flow run 'x' - {RUN}"])
    yield
    for machine, path, _ in (*appended, (CONTROLLER, f"{ANSIBLE}/secrets.yml", "")):
        machines.ssh(machine, f"sudo mv {path}.before {path}")
    machines.ssh(CONTROLLER, f"rm -r {ANSIBLE}/host_vars; sudo rm -r /opt/pag/flows/planted; rm -f {ARCHIVE}")
    machines.ssh(WORKER, f"sudo rm {DROP_IN}; sudo rmdir {Path(DROP_IN).parent}; sudo systemctl daemon-reload")


@pytest.fixture(scope="module")
def files(machines: Machines, planted: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The archive's files by path, and what the playbook printed."""
    del planted
    command = f"cd {ANSIBLE} && pag support-bundle -e support_bundle_file=$HOME/{ARCHIVE}"
    printed = machines.ssh(CONTROLLER, command)
    assert machines.ssh(CONTROLLER, f"stat -c '%a %U' {ARCHIVE}").split() == [
        "600",
        machines.ssh(CONTROLLER, "id -un").strip(),
    ]
    local = tmp_path_factory.mktemp("support") / ARCHIVE
    subprocess.run(["scp", "-q", "-F", machines.ssh_config, f"{CONTROLLER}:{ARCHIVE}", local], check=True)
    with tarfile.open(local) as tar:
        members = {member.name.partition("/")[2]: tar.extractfile(member) for member in tar if member.isfile()}
        found = {name: stream.read().decode() for name, stream in members.items() if stream is not None}
    return found | {"printed": printed}


def _everything(files: dict[str, str]) -> str:
    """The files' texts, and what the base64 in them says."""
    texts = [f"== {name}\n{text}" for name, text in files.items()]
    for text in files.values():
        for found in re.findall(r"[A-Za-z0-9+/_-]{16,}={0,2}", text):
            for offset in range(4):
                piece = found[offset:].replace("-", "+").replace("_", "/").rstrip("=")
                piece = piece[: len(piece) - len(piece) % 4]
                texts.append(base64.b64decode(piece).decode("utf-8", "replace"))
    return "\n".join(texts)


@pytest.mark.parametrize(
    "secret",
    [
        WORD, ADDRESS, HEADER, TOKEN, KEY, RUN, UNIT, SETTING, PROFILE, QUERY, PARAMETER, VARIABLE, BLOCK, HOST, VAULT,
        FLOW, KNOWN,
    ],
)  # fmt: skip
def test_no_planted_secret_is_in_it(files: dict[str, str], secret: str) -> None:
    everything = _everything(files)
    for spelling in spellings(secret):
        assert spelling not in everything, everything[max(0, everything.index(spelling) - 200) :][:300]


def test_none_of_the_sites_secrets_is_in_it(files: dict[str, str], secrets: Secrets) -> None:
    everything = _everything(files)
    for secret in (secrets.basic_auth, secrets.basic_auth.partition(":")[2], secrets.database_password):
        for spelling in spellings(secret):
            assert spelling not in everything


def test_it_has_what_it_promises(files: dict[str, str]) -> None:
    assert "this line is seen" in files[f"nodes/{SERVER}/journal/prefect-server.service.log"]
    assert "known: [masked]" in files[f"nodes/{SERVER}/journal/prefect-server.service.log"]
    assert "Worker 'pag-worker-1' started" in files[f"nodes/{WORKER}/journal/prefect-worker-cpu.service.log"]
    assert "ActiveState=active" in files[f"nodes/{WORKER}/units/prefect-worker-cpu.service.txt"]
    assert "Environment=[masked] (HARMLESS, OTHER)" in files[f"nodes/{WORKER}/units/prefect-worker-cpu.service.txt"]
    assert "PREFECT_API_URL=" in files[f"nodes/{WORKER}/settings/worker-cpu.env"]
    assert "PREFECT_API_AUTH_STRING=" in files[f"nodes/{WORKER}/settings/worker-cpu.env"]
    assert "proxy_pass" in files[f"nodes/{SERVER}/settings/prefect.conf"]
    assert "open() failed" in files[f"nodes/{SERVER}/logs/nginx-error.log"]
    assert "harmless: this is seen" in files["controller/inventory/inventory.yml"]
    assert '"vault": true' in files["controller/facts.json"]
    assert json.loads(files["nodes/pag-server/versions.json"])["environment"]["prefect"]
    assert json.loads(files["controller/manifest.json"])["environments"]
    assert json.loads(files["status.json"])["nodes"]
    assert "NODES" in files["status.txt"]
    for name in ("disks", "memory", "addresses", "listening", "packages"):
        assert files[f"nodes/{WORKER}/system/{name}.txt"].strip(), name


def test_it_says_what_was_masked_and_left_out(files: dict[str, str]) -> None:
    index = json.loads(files["index.json"])
    for kind in ("known value", "private key", "login header", "login in an address", "named", "setting", "parameters"):
        assert index["masked"][kind] >= 1, index["masked"]
    machines = {machine["name"]: machine for machine in index["machines"]}
    assert machines[WORKER]["index"]["left_out"]["journal/prefect-worker-cpu.service.log"] >= 2
    assert machines[SERVER]["index"]["missing"] == {}
    assert f"{sum(index['masked'].values())} secrets were masked" in " ".join(files["printed"].split())


def test_nothing_is_left_on_the_machines(machines: Machines, files: dict[str, str]) -> None:
    del files
    for name in (CONTROLLER, SERVER, *CPU_WORKERS):
        assert not machines.ssh(name, "find /tmp -maxdepth 1 -name 'pag-support-*'").strip()
