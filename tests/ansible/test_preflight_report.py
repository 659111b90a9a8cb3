"""The role preflight, run on this host in place of nodes: all problems in one report, before anything is changed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_bundle_facts import TARGET, _write_bundle

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"

# Each runs a playbook, for seconds.
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("ansible-playbook") is None, reason="needs ansible-playbook"),
]

GOOD_SECRETS = {"prefect_basic_auth_key": "admin:really-mine", "postgresql_password": "mine-too"}
PLAYBOOK = [
    {
        "name": "Preflight",
        "hosts": "prefect_servers:prefect_workers",
        "gather_facts": False,
        "any_errors_fatal": True,
        "vars_files": [["secrets.yml", "secrets.yml.example"]],
        "roles": ["preflight"],
        "post_tasks": [{"name": "Go on", "ansible.builtin.debug": {"msg": "nothing is in the way"}}],
    }
]


def _inventory(**gpu: Any) -> dict[str, Any]:
    return {
        "all": {"vars": {"ansible_connection": "local"}},
        "prefect_servers": {"hosts": {"server": {}}},
        "prefect_workers": {
            "children": {
                "prefect_workers_cpu": {"hosts": {"worker": {}}},
                "prefect_workers_gpu": {"hosts": {"worker": {"worker_gpu_ids": "0,1", **gpu}}},
            }
        },
    }


def _run(
    directory: Path, inventory: dict[str, Any], secrets: dict[str, str] | None = None, **variables: Any
) -> tuple[int, str]:
    """Run the role and return the exit code and what it printed, in one line."""
    playbooks = directory / "bundle" / "ansible"
    shutil.copytree(ANSIBLE, playbooks, ignore=shutil.ignore_patterns("inventory.yml", "secrets.yml", "collections"))
    _write_bundle(directory / "pag")
    (playbooks / "test.yml").write_text(yaml.safe_dump(PLAYBOOK))
    (playbooks / "inventory.yml").write_text(yaml.safe_dump(inventory))
    if secrets is not None:
        (playbooks / "secrets.yml").write_text(yaml.safe_dump(secrets))
    checks = {"pag_root": str(directory / "pag"), "preflight_resolve": [], "preflight_ports": {}}
    checks |= {"preflight_systemd": False} | variables
    (directory / "variables.yml").write_text(yaml.safe_dump(checks))
    # Where ansible.cfg looks for it, there is none without an installation.
    (directory / "vault-password").write_text("x\n")
    environment = {"ANSIBLE_HOME": "home", "ANSIBLE_VAULT_PASSWORD_FILE": "vault-password"}
    completed = subprocess.run(
        ["ansible-playbook", "test.yml", "--extra-vars", f"@{directory / 'variables.yml'}"],
        cwd=playbooks,
        env=os.environ | {name: str(directory / path) for name, path in environment.items()} | {"ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
    )
    return completed.returncode, re.sub(r"\s+", " ", completed.stdout + completed.stderr)


def test_secrets_that_were_never_set_are_refused(tmp_path: Path) -> None:
    inventory = _inventory(worker_gpu_ids="0,GPU-0a1b2c3d-4e5f,MIG-6a7b8c9d-0e1f")
    status, output = _run(tmp_path, inventory, flow_users="eo-team")
    assert status != 0
    assert "flow_users is eo-team: write a list of Unix users" in output
    assert "secrets.yml: prefect_basic_auth_key still has the example's value" in output
    assert "secrets.yml: postgresql_password still has the example's value" in output
    assert "nothing is in the way" not in output
    assert "worker_gpu_ids is" not in output


def test_all_problems_come_in_one_report(tmp_path: Path) -> None:
    inventory = _inventory(worker_gpu_ids="0,0")
    inventory["prefect_servers"]["hosts"]["second"] = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1",
                                                       "ansible_port": 1}  # fmt: skip
    status, output = _run(
        tmp_path,
        inventory,
        {"prefect_basic_auth_key": "nocolon", "postgresql_password": "with blank"},
        preflight_free_space={"/": 10**9},
        preflight_max_time_skew=1e-9,
        flow_users=["eo-team", "root", 1001],
    )
    assert status != 0
    assert "flow_users has root: name Unix users there, and never root" in output
    assert "flow_users has 1001" in output
    assert "flow_users has eo-team" not in output
    assert "prefect_basic_auth_key is not of the form user:password" in output
    assert "postgresql_password has white space in it" in output
    assert "the group prefect_servers has 2 nodes: put exactly one there" in output
    assert "second: cannot be reached over SSH" in output
    assert "worker: worker_gpu_ids is 0,0" in output
    for host in ("server", "worker"):
        assert f"{host}: its clock is" in output
        assert re.search(rf"{host}: has \d+ MB free", output)
    for secret in ("nocolon", "with blank"):
        assert secret not in output


def test_nothing_in_the_way_goes_on(tmp_path: Path) -> None:
    from preflight_node import node_facts

    if node_facts(tmp_path)["target"] != TARGET or os.geteuid() != 0:
        pytest.skip(f"needs root on {TARGET}")
    status, output = _run(tmp_path, _inventory(), GOOD_SECRETS)
    assert status == 0, output
    assert "nothing is in the way" in output


def test_what_was_found_is_printed_when_it_is_asked_for(tmp_path: Path) -> None:
    """Two names of one machine are no problem, but worth a word."""
    status, output = _run(tmp_path, _inventory(), GOOD_SECRETS, preflight_report=True)
    assert status == 0, output
    assert re.search(rf"server {TARGET} \S* *\d+ \d+ MB", output), output
    assert "warning: worker: has the /etc/machine-id of server: give it its own, unless both are one machine." in output
    assert "Nothing is in the way of installing." in output
