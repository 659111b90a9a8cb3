#!/usr/bin/python
"""Ansible module: which target a machine is."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: node_target
short_description: Tell which target a machine is
description:
  - Reads the machine's release and architecture. Changes nothing.
options: {}
attributes:
  check_mode:
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Look what the machine is
  node_target:
  register: target
"""

RETURN = r"""
target:
  description: Release and architecture, for example C(debian-12-x86_64).
  type: str
  returned: success
"""

import platform
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule


def target(os_release: Path = Path("/etc/os-release")) -> str:
    """Return the name of this machine's target, from its *os_release* file."""
    lines = os_release.read_text(encoding="utf-8").splitlines()
    release = dict(line.split("=", 1) for line in lines if "=" in line)
    identifier, version = (release.get(key, "").strip("\"'") for key in ("ID", "VERSION_ID"))
    return f"{identifier}-{version}-{platform.machine()}"


def main() -> None:
    """Run the module."""
    AnsibleModule(argument_spec={}, supports_check_mode=True).exit_json(changed=False, target=target())


if __name__ == "__main__":
    main()
