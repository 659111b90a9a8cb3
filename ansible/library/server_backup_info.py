#!/usr/bin/python
"""Ansible module: find a backup of the Prefect server and check it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: server_backup_info
short_description: Find a backup of the Prefect server and check it
description:
  - Hashes every file of the backup against its manifest. Fails, in a sentence, when one is missing, cut or changed.
options:
  backup:
    description:
      - A path of a backup or of its dump, the name of one in O(directories), or C(latest) for the newest that one of
        them has.
    type: str
    required: true
  directories:
    description: Where backups are; the first that has it counts.
    type: list
    elements: path
    required: true
  required:
    description: Whether it is an error that there is no such backup. One that is not whole is always an error.
    type: bool
    default: true
attributes:
  check_mode:
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Find the backup
  server_backup_info:
    backup: latest
    directories: [/opt/pag/backups/pag-server]
"""

RETURN = r"""
path:
  description: Directory of the backup; empty when there is none.
  type: str
  returned: success
name:
  description: Its name.
  type: str
  returned: success
size:
  description: Bytes of its files.
  type: int
  returned: success
manifest:
  description: What it says of itself; without its list of files.
  type: dict
  returned: success
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.server_backup import DUMP, BackupError, load, names


def find(backup: str, directories: list[Path]) -> Path | None:
    """Return the directory of the backup that is meant, None when there is none."""
    if "/" in backup:
        path = Path(backup)
        path = path.parent if path.name == DUMP else path
        return path if path.is_dir() else None
    if backup == "latest":
        newest = [(found[-1], -index) for index, directory in enumerate(directories) if (found := names(directory))]
        return directories[-max(newest)[1]] / max(newest)[0] if newest else None
    return next((directory / backup for directory in directories if (directory / backup).is_dir()), None)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "backup": {"type": "str", "required": True},
            "directories": {"type": "list", "elements": "path", "required": True},
            "required": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    directories = [Path(directory) for directory in module.params["directories"]]
    try:
        path = find(module.params["backup"], directories)
        if path is None:
            if module.params["required"]:
                module.fail_json(
                    msg=f"There is no backup {module.params['backup']} in {' or '.join(map(str, directories))}: give "
                    "the path or the name of one with -e backup=."
                )
            module.exit_json(changed=False, path="", name="", size=0, manifest={})
        backup = load(path)
    except BackupError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"The backup cannot be read ({error}): run this as the user whom it belongs to.")
    manifest = {key: value for key, value in backup.manifest.items() if key != "files"}
    module.exit_json(changed=False, path=str(path), name=path.name, size=backup.size, manifest=manifest)


if __name__ == "__main__":
    main()
