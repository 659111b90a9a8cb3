"""The site's login and database password, searched for where they must not be, while a playbook works and after it."""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, quote_plus

import playbooks
import pytest
from cluster_site import SERVER, Secrets
from guide import CONTROLLER
from machines import Machines
from prefect_api import PrefectApi

_PATTERNS = "/run/pag-planted/patterns"

# What every user may see of every process, from the first to the last moment of a playbook.
_WATCH = f"""
umask 077; mkdir -p /run/pag-planted; cat > {_PATTERNS}; : > /run/pag-planted/seen
while [ ! -e /run/pag-planted/end ]; do
  cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -o -F --file={_PATTERNS} >> /run/pag-planted/seen
  sleep 0.1
done
"""

# Each of these prints what has a secret in it, after a name of the place; "control" has to be found.
_PLACES = {
    "control": f"cat {_PATTERNS}",
    "units": "cat /etc/systemd/system/*.service /etc/systemd/system/*.timer /run/systemd/system/* 2>/dev/null",
    "properties of units on D-Bus": "systemctl show --all --no-pager '*'",
    "systemd's own environment": "systemctl show-environment",
    "the journal, with its hidden fields": "journalctl --no-pager --output=export",
    "other logs": "find /var/log -type f -not -path '*/journal/*' -exec cat {} +",
    "what anybody may read": (
        "runuser -u nobody -- find /etc /opt /usr/local /var/lib /var/backups /var/tmp /tmp /home /run"
        " -type f -readable -exec cat {} + 2>/dev/null"
    ),
    "other users' processes": (
        "runuser -u nobody -- sh -c 'cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null; true'"
    ),
}


def _spellings(secret: str) -> list[str]:
    encoded = [base64.b64encode(text.encode()).decode() for text in (secret, f"admin:{secret}")]
    return sorted({secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], *encoded})


@pytest.fixture(scope="module")
def patterns(secrets: Secrets) -> str:
    """The secrets in each spelling, a line each; they travel over standard input alone."""
    password = secrets.basic_auth.partition(":")[2]
    return "".join(f"{text}\n" for secret in (password, secrets.database_password) for text in _spellings(secret))


@contextmanager
def _watched(machines: Machines, patterns: str) -> Iterator[None]:
    """Read all processes' arguments on every machine meanwhile."""
    line = f"sudo bash -c {shlex.quote(_WATCH)}"
    watchers = []
    try:
        for name in machines.addresses():
            watcher = subprocess.Popen(["ssh", "-F", machines.ssh_config, name, line], stdin=subprocess.PIPE, text=True)
            watchers.append(watcher)
            assert watcher.stdin is not None
            watcher.stdin.write(patterns)
            watcher.stdin.close()
        yield
    finally:
        for name in machines.addresses():
            machines.ssh(name, "sudo touch /run/pag-planted/end")
        for watcher in watchers:
            watcher.wait(timeout=30)


@pytest.fixture(scope="module")
def printed(machines: Machines, patterns: str) -> Iterator[str]:
    """What ``main.yml`` prints that leaves no task out and tells all it can."""
    arguments = ("-vvv", "--diff", "-e", "receipt_use=false")
    with _watched(machines, patterns):
        result = playbooks.play(machines, "main.yml", *arguments)
    assert result.returncode == 0, result.output[-3000:]
    yield result.output
    for name in machines.addresses():
        machines.ssh(name, "sudo rm -r /run/pag-planted")


def test_the_playbooks_most_verbose_output_has_none(printed: str, patterns: str) -> None:
    assert "TASK [prefect_server : Write the settings]" in printed
    assert [secret for secret in patterns.split() if secret in printed] == []


def test_no_process_had_one_in_its_arguments(printed: str, machines: Machines) -> None:
    del printed
    for name in machines.addresses():
        assert machines.ssh(name, "sudo cat /run/pag-planted/seen") == "", name


@pytest.mark.parametrize("place", _PLACES)
def test_no_machine_shows_one(printed: str, machines: Machines, place: str) -> None:
    del printed
    # The control's own file is readable for root alone.
    search = f"{_PLACES[place]} | grep --text --only-matching --fixed-strings --file={_PATTERNS} | wc -l"
    for name in machines.addresses():
        found = int(machines.ssh(name, f"sudo bash -c {shlex.quote(search)}"))
        assert (found > 0) == (place == "control"), f"on {name}"


@pytest.mark.parametrize(
    "path",
    [
        "deployments",
        "flow_runs",
        "logs",
        "work_pools",
        "block_documents",
        "variables",
        "automations",
        "events",
        "flows",
    ],
)
def test_no_answer_of_the_api_has_one(api: PrefectApi, patterns: str, path: str) -> None:
    answer = json.dumps(api.request("POST", f"/{path}/filter", {}))
    assert [secret for secret in patterns.split() if secret in answer] == []


@pytest.mark.parametrize("path", ["/admin/settings", "/admin/version"])
def test_nor_has_what_the_server_tells_of_itself(api: PrefectApi, patterns: str, path: str) -> None:
    answer = json.dumps(api.request("GET", path))
    assert [secret for secret in patterns.split() if secret in answer] == []


def test_the_settings_that_have_them_are_roots(machines: Machines) -> None:
    modes = machines.ssh(SERVER, "sudo stat -c '%U %a' /etc/prefect/server.env /etc/prefect")
    assert modes.split() == ["root", "600", "root", "755"]
    kept = machines.ssh(CONTROLLER, f"stat -c '%U %a' {playbooks.DIRECTORY}/secrets.yml .config/pag/vault-password")
    assert kept.split() == ["operator", "600"] * 2


def test_the_operators_are_in_a_vault(machines: Machines, secrets: Secrets) -> None:
    path = f"{playbooks.DIRECTORY}/secrets.yml"
    assert machines.ssh(CONTROLLER, f"head -n 1 {path}").startswith("$ANSIBLE_VAULT;")
    assert secrets.database_password in machines.ssh(
        CONTROLLER, f"cd {playbooks.DIRECTORY} && ansible-vault view secrets.yml"
    )


def test_the_vaults_password_is_never_made_again(machines: Machines) -> None:
    before = machines.ssh(CONTROLLER, "cat .config/pag/vault-password")
    assert len(before.strip()) >= 43
    machines.ssh(CONTROLLER, "bash pag-software-bundle/install-pag-controller.sh")
    assert machines.ssh(CONTROLLER, "cat .config/pag/vault-password") == before
