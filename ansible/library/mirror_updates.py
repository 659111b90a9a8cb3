#!/usr/bin/python
"""Ansible module: newer versions of installed Debian packages, from the bundle's mirror."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mirror_updates
short_description: Upgrade installed Debian packages from the bundle's mirror
description:
  - Upgrades every installed package of which the mirror has a newer version. Installs others only where an upgrade
    needs them, and removes none. The node's own package sources are never contacted.
  - Configuration files that somebody changed stay as they are. Packages on hold stay, too.
  - Says whether the node needs a reboot, and which services still use what was replaced; does neither.
  - In check mode it tells what would be upgraded; the files need not be on the node then.
options:
  index:
    description: The text of the mirror's C(Packages) file. Files on the node are held against its SHA-256 sums.
    type: str
    required: true
  directory:
    description: The directory on the node with the C(.deb) files.
    type: path
    required: true
  finish:
    description: Instead, only configure the packages that an installation which was cut short left unconfigured.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Upgrade
  mirror_updates:
    index: "{{ lookup('ansible.builtin.file', '/opt/pag/mirror/apt/debian-12-x86_64/Packages') }}"
    directory: /opt/pag/mirror/apt/debian-12-x86_64
"""

RETURN = r"""
upgrades:
  description: What was, or would be, upgraded, with name, old (empty where the package is new) and new.
  type: list
  elements: dict
  returned: success
needed:
  description: The files that this needs.
  type: list
  elements: str
  returned: success
kept_back:
  description: Packages with a newer version in the mirror that cannot be installed without removing others.
  type: list
  elements: str
  returned: success
reboot:
  description: Why the node needs a reboot; empty when it needs none.
  type: list
  elements: str
  returned: success
stale:
  description: Units that still use programs or libraries which were replaced.
  type: list
  elements: str
  returned: success
"""

import dataclasses
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.mirror_apt import (
    Mirror,
    MirrorAptError,
    finish_interrupted,
    is_interrupted,
    pending_upgrades,
    upgrade,
)
from ansible.module_utils.restart_needs import reboot_reasons, stale_units


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "index": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "finish": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    mirror = Mirror(module.params["index"], Path(module.params["directory"]))
    try:
        if module.params["finish"]:
            interrupted = is_interrupted()
            if interrupted and not module.check_mode:
                finish_interrupted()
            module.exit_json(changed=interrupted)
        pending = pending_upgrades(mirror)
        upgrades = pending.upgrades
        if upgrades and not module.check_mode:
            upgrades = upgrade(mirror)
    except MirrorAptError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(upgrades),
        upgrades=[dataclasses.asdict(entry) for entry in upgrades],
        needed=list(pending.files),
        kept_back=list(pending.kept_back),
        reboot=reboot_reasons(),
        stale=stale_units(),
    )


if __name__ == "__main__":
    main()
