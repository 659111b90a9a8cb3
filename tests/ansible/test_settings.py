"""Where settings come from: what the operator's inventory says stands before what a bundle brings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ANSIBLE

INVENTORY = """
all:
  vars:
    retention_days: 7
    prefect_server_port: 8443
prefect_workers:
  children:
    prefect_workers_gpu:
      vars:
        worker_gpu_ids: "0,1"
      hosts:
        node:
          old_login_hours: 3
"""


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, object]:
    """What a node of that inventory has, with the project's configuration and its group_vars."""
    (tmp_path / "inventory.yml").write_text(INVENTORY)
    (tmp_path / "password").write_text("no secret")
    command = [
        str(Path(sys.executable).parent / "ansible-inventory"),
        "-i",
        str(tmp_path / "inventory.yml"),
        "--host",
        "node",
    ]
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
        "ANSIBLE_VAULT_PASSWORD_FILE": str(tmp_path / "password"),
    }
    said = subprocess.run(
        [*command, "--playbook-dir", str(ANSIBLE)], env=environment, check=True, capture_output=True, text=True
    )
    found: dict[str, object] = json.loads(said.stdout)
    return found


@pytest.mark.parametrize(
    ("name", "value"),
    [("retention_days", 7), ("prefect_server_port", 8443), ("worker_gpu_ids", "0,1"), ("old_login_hours", 3)],
)
def test_the_inventory_comes_before_defaults(settings: dict[str, object], name: str, value: object) -> None:
    assert settings[name] == value


def test_the_rest_is_the_bundles(settings: dict[str, object]) -> None:
    assert settings["prefect_home"] == "/opt/prefect"
