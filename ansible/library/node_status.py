#!/usr/bin/python
"""Ansible module: how a node is."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_status
short_description: Say how a node is, in one look
description:
  - Looks at units, flow runs under way, versions, file systems, memory, load, clock, backups, certificates, markers and
    the journal's last errors. Works on a node where nothing is installed.
  - Changes nothing, asks nothing of other machines, and judges nothing.
options:
  root:
    description: Where the bundle's files are on the node.
    type: path
    required: true
  home:
    description: Home of the service user.
    type: path
    required: true
  settings:
    description: Directory with the services' settings and drained markers.
    type: path
    default: /etc/prefect
  certificates:
    description: Directory with the server's certificates (C(*.crt)).
    type: path
    default: /etc/pag
  backups:
    description: Directory of the backups.
    type: path
    default: /var/backups/pag
  controller_time:
    description: Time on the controller when the question was sent, in seconds since 1970.
    type: float
    required: true
  errors:
    description: How many of the journal's errors of the last 24 hours are given.
    type: int
    default: 3
  secrets:
    description: Values that are masked in what the journal says.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
author: pag
"""

EXAMPLES = r"""
- name: Look how the nodes are
  node_status:
    root: /opt/pag
    home: /opt/prefect
    controller_time: "{{ now().timestamp() }}"
    secrets: ["{{ prefect_basic_auth_key }}"]
"""

RETURN = r"""
node:
  description: >-
    What was found: hostname, system, kernel, python, booted_seconds, clock_seconds (ahead of the controller's),
    environment (name, digest, prefect, python; null where there is none), installed_seconds, units, failed_units, runs
    (ids by the unit that has them), drained (kinds of workers), disks, memory, load, processors, gpus, backups,
    certificates, reboot (reasons), errors (unit, time, message).
  type: dict
  returned: always
"""

import os
import platform
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils import node_files
from ansible.module_utils.gpu_inventory import inventory
from ansible.module_utils.journal import last_errors
from ansible.module_utils.masking import Masker
from ansible.module_utils.node_units import failed_units, runs_of, show_units
from ansible.module_utils.restart_needs import reboot_reasons

# What of an error's message is given, in characters.
_MESSAGE = 300


def installed(home: Path, now: float) -> dict[str, Any]:
    """Return what is installed below *home*, and for how many seconds."""
    since = node_files.installed_at(home)
    return {
        "environment": node_files.base_environment(home),
        "installed_seconds": None if since is None else round(max(now - since, 0)),
    }


def errors(names: list[str], count: int, masker: Masker) -> list[dict[str, Any]]:
    """Return the newest errors of the units with these *names*, each in one line."""
    try:
        found = last_errors(names, "-24h", count)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [
        {
            "unit": entry["unit"],
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry["time"])),
            "message": " ".join(masker.mask(entry["message"]).split())[:_MESSAGE],
        }
        for entry in found
    ]


def look(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return what there is to say about this node."""
    now = time.time()
    home, settings = Path(parameters["home"]), Path(parameters["settings"])
    units = show_units()
    runs = {unit["name"]: runs_of(unit.pop("control_group")) for unit in units}
    return {
        "hostname": socket.gethostname(),
        "system": node_files.operating_system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "booted_seconds": node_files.uptime(),
        "clock_seconds": round(now - parameters["controller_time"], 1),
        **installed(home, now),
        "units": units,
        "failed_units": failed_units(),
        "runs": {name: found for name, found in runs.items() if name.startswith("prefect-worker-")},
        "drained": node_files.drained(settings),
        "disks": node_files.file_systems([parameters["root"], str(home), "/var"]),
        "memory": node_files.memory(),
        "load": round(os.getloadavg()[0], 2),
        "processors": os.cpu_count() or 1,
        "gpus": inventory(),
        "backups": node_files.backups(Path(parameters["backups"]), now)[:1],
        "certificates": node_files.certificates(Path(parameters["certificates"]), now),
        "reboot": list(reboot_reasons()),
        "errors": errors([unit["name"] for unit in units], parameters["errors"], Masker(parameters["secrets"])),
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "home": {"type": "path", "required": True},
            "settings": {"type": "path", "default": "/etc/prefect"},
            "backups": {"type": "path", "default": "/var/backups/pag"},
            "certificates": {"type": "path", "default": "/etc/pag"},
            "controller_time": {"type": "float", "required": True},
            "errors": {"type": "int", "default": 3},
            "secrets": {"type": "list", "elements": "str", "default": [], "no_log": True},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, node=look(module.params))


if __name__ == "__main__":
    main()
