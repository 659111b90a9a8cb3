#!/usr/bin/python
"""Ansible module: what a node had before anything was installed."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: node_before
short_description: Remember what a node has before anything is installed
description:
  - Writes a record once, before the first installation, so that uninstalling can tell what was there already.
  - A node that an earlier version installed has no record; then nothing counts as having been there.
options:
  record:
    description: The file of the record.
    type: path
    default: /var/lib/pag/before.json
  installed:
    description: A path that is there once something was installed.
    type: path
    required: true
  user:
    description: The service user, and its group.
    type: str
    required: true
  paths:
    description: Files, links and directories of which to remember whether they are there.
    type: list
    elements: path
    default: []
  units:
    description: systemd units of which to remember whether they are enabled and active.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Remember what was there
  node_before:
    installed: /opt/pag/toolkit
    user: prefect
    paths: [/opt/prefect, /etc/prefect]
    units: [nginx.service]
"""

RETURN = r"""
recorded:
  description: What the record says; empty when there is none.
  type: dict
  returned: success
"""

import grp
import json
import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule


def state_now(user: str, paths: list[str], units: list[str]) -> dict[str, Any]:
    """Return what is there: the user, the group, paths (links with their targets) and units that are on."""
    return {
        "user": any(entry.pw_name == user for entry in pwd.getpwall()),
        "group": any(entry.gr_name == user for entry in grp.getgrall()),
        "paths": {
            path: str(Path(path).readlink()) if Path(path).is_symlink() else ""
            for path in paths
            if os.path.lexists(path)
        },
        "units": {unit: {"enabled": _is("is-enabled", unit), "active": _is("is-active", unit)} for unit in units},
    }


def _is(question: str, unit: str) -> bool:
    return subprocess.run(["systemctl", question, "--quiet", unit]).returncode == 0


def write(record: Path, content: dict[str, Any]) -> None:
    """Write the record, wholly or not at all."""
    record.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    part = record.with_suffix(".part")
    with part.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    part.chmod(0o644)
    part.replace(record)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "record": {"type": "path", "default": "/var/lib/pag/before.json"},
            "installed": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "paths": {"type": "list", "elements": "path", "default": []},
            "units": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    record = Path(parameters["record"])
    if record.exists():
        module.exit_json(changed=False, recorded=json.loads(record.read_text(encoding="utf-8")))
    if Path(parameters["installed"]).exists():
        module.exit_json(changed=False, recorded={})
    found = state_now(parameters["user"], parameters["paths"], parameters["units"])
    if not module.check_mode:
        write(record, found)
    module.exit_json(changed=True, recorded=found)


if __name__ == "__main__":
    main()
