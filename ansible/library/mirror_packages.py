#!/usr/bin/python
"""Ansible module: Debian packages from the bundle's mirror."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mirror_packages
short_description: Install Debian packages from the bundle's mirror
description:
  - Installs packages that are not installed, with what they need, from a directory of C(.deb) files on the node.
    The node's own package sources are never contacted, and packages that are installed are not upgraded.
  - In check mode it tells which files would be installed; they need not be on the node then.
options:
  names:
    description: Packages that must be installed.
    type: list
    elements: str
    required: true
  index:
    description: The text of the mirror's C(Packages) file. Files on the node are held against its SHA-256 sums.
    type: str
    required: true
  directory:
    description: The directory on the node with the C(.deb) files.
    type: path
    required: true
attributes:
  check_mode:
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Install rsync
  mirror_packages:
    names: [rsync]
    index: "{{ lookup('ansible.builtin.file', '/opt/pag/mirror/apt/debian-12-x86_64/Packages') }}"
    directory: /opt/pag/mirror/apt/debian-12-x86_64
"""

RETURN = r"""
missing:
  description: The packages of C(names) that were not installed.
  type: list
  elements: str
  returned: success
needed:
  description: The files that had to be installed.
  type: list
  elements: str
  returned: success
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.mirror_apt import Mirror, MirrorAptError, install, missing_packages, needed_files


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "index": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    mirror = Mirror(module.params["index"], Path(module.params["directory"]))
    try:
        missing = missing_packages(module.params["names"])
        needed = needed_files(missing, mirror) if missing else []
        if missing and not module.check_mode:
            install(missing, mirror)
    except MirrorAptError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(missing), missing=missing, needed=needed)


if __name__ == "__main__":
    main()
