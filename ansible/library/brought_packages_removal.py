#!/usr/bin/python
"""Ansible module: remove the Debian packages that came from the bundle's mirror."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: brought_packages_removal
short_description: Remove the Debian packages that came from the bundle's mirror
description:
  - Removes the packages that M(mirror_packages) brought to this machine, with their configuration files. Packages that
    were there before, or that another package depends on now, stay.
options:
  keep:
    description: Names of packages that stay in any case, with what they need.
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
- name: Remove what we brought, but not the database
  brought_packages_removal:
    keep: [postgresql]
"""

RETURN = r"""
removed:
  description: The packages that were removed, as name:architecture.
  type: list
  elements: str
  returned: success
kept:
  description: The packages that came from the mirror and stay, and why.
  type: dict
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.brought_packages import plan_removal, remove
from ansible.module_utils.mirror_apt import MirrorAptError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"keep": {"type": "list", "elements": "str", "default": []}},
        supports_check_mode=True,
    )
    try:
        removal = (plan_removal if module.check_mode else remove)(module.params["keep"])
    except MirrorAptError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(removal.removed), removed=list(removal.removed), kept=removal.kept)


if __name__ == "__main__":
    main()
