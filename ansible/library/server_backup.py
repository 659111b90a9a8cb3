#!/usr/bin/python
"""Ansible module: make a backup of the Prefect server now."""

from __future__ import annotations

DOCUMENTATION = r"""
module: server_backup
short_description: Make a backup of the Prefect server now
description:
  - Starts C(pag-backup.service) and waits until it has ended. Fails with the sentence that it ended with.
options:
  directory:
    description: Where the server keeps its backups.
    type: path
    required: true
attributes:
  check_mode:
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Make a backup
  server_backup:
    directory: /var/backups/pag
"""

RETURN = r"""
name:
  description: Name of the backup; empty in check mode, as are the paths.
  type: str
  returned: success
path:
  description: Its directory.
  type: str
  returned: success
file:
  description: The database's dump in it.
  type: str
  returned: success
size:
  description: Bytes of its files.
  type: int
  returned: success
seconds:
  description: How long it took.
  type: float
  returned: success
"""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.server_backup import DUMP

_UNIT = "pag-backup.service"
# The timer's own may be under way.
_BUSY_STATES = ("activating", "deactivating", "reloading")
_PAUSE_SECONDS = 1


def wait_until_idle() -> None:
    """Wait for a backup that is under way already: it began before whatever the operator did last."""
    while True:
        answer = subprocess.run(
            ["systemctl", "show", "--property=ActiveState", "--value", _UNIT], capture_output=True, text=True
        )
        if answer.stdout.strip() not in _BUSY_STATES:
            return
        time.sleep(_PAUSE_SECONDS)


def outcome(directory: Path) -> dict[str, Any]:
    """Return what the last backup in *directory* ended with; empty when there is nothing."""
    try:
        content = json.loads((directory / "last.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"directory": {"type": "path", "required": True}},
        supports_check_mode=True,
    )
    directory = Path(module.params["directory"])
    if module.check_mode:
        module.exit_json(
            changed=True, name="", path="", file="", size=0, seconds=0.0, msg=f"A backup would be made in {directory}."
        )
    started = time.monotonic()
    wait_until_idle()
    before = outcome(directory)
    finished = subprocess.run(["systemctl", "start", _UNIT], capture_output=True, text=True)
    found = outcome(directory)
    told = found.get("message", "") if found != before else ""
    if finished.returncode != 0 or not found.get("succeeded") or found == before:
        module.fail_json(
            msg=told
            if told and not found.get("succeeded")
            else f"{_UNIT} made no backup ({finished.stderr.strip() or 'it ended early'}): see journalctl -u {_UNIT}."
        )
    path = directory / found["name"]
    module.exit_json(
        changed=True,
        name=found["name"],
        path=str(path),
        file=str(path / DUMP),
        size=found["size"],
        seconds=round(time.monotonic() - started, 1),
        msg=told,
    )


if __name__ == "__main__":
    main()
