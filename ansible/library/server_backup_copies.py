#!/usr/bin/python
"""Ansible module: copies of the server's backups on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: server_backup_copies
short_description: Check copies of the server's backups, and keep the newest
description:
  - Copies arrive as C(.partial-<name>). Each is hashed against its manifest and gets its own name; then the oldest are
    removed. A copy that is not whole stays as it is, for the next try, and fails the module.
options:
  directory:
    description: Where the copies are.
    type: path
    required: true
  arrived:
    description: Names of the copies that have arrived.
    type: list
    elements: str
    required: true
  keep:
    description: How many are kept.
    type: int
    required: true
attributes:
  check_mode:
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Check the copies
  server_backup_copies:
    directory: /opt/pag/backups/pag-server
    arrived: [2026-11-20T021500Z]
    keep: 14
"""

RETURN = r"""
copied:
  description: Names of the copies that are new.
  type: list
  returned: success
removed:
  description: Names of the copies that are gone.
  type: list
  returned: success
size:
  description: Bytes of the new copies.
  type: int
  returned: success
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.server_backup import PARTIAL_PREFIX, BackupError, flush, load, names, prune


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "arrived": {"type": "list", "elements": "str", "required": True},
            "keep": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    directory, keep = Path(module.params["directory"]), module.params["keep"]
    arrived = sorted(module.params["arrived"])
    if module.check_mode:
        module.exit_json(
            changed=bool(arrived), copied=arrived, removed=[], size=0, msg=f"{len(arrived)} backups would be copied."
        )
    size = 0
    try:
        for name in arrived:
            partial = directory / f"{PARTIAL_PREFIX}{name}"
            size += load(partial).size
            flush(partial)
            partial.rename(directory / name)
        removed = prune(directory, keep)
    except (BackupError, OSError) as error:
        module.fail_json(msg=f"{error} The backups that were copied before are as they were.")
    module.exit_json(
        changed=bool(arrived or removed),
        copied=arrived,
        removed=removed,
        size=size,
        msg=f"{directory} has {len(names(directory))} backups; {len(arrived)} of them are new ({size} bytes).",
    )


if __name__ == "__main__":
    main()
