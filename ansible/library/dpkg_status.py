#!/usr/bin/python
"""Ansible module: which Debian packages are installed."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: dpkg_status
short_description: Tell which Debian packages are installed
description:
  - Names, architectures and versions of the packages that are installed, and the node's release. Changes nothing.
options: {}
attributes:
  check_mode:
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Ask for the Debian packages
  dpkg_status:
  register: status
"""

RETURN = r"""
target:
  description: The release and architecture, C(debian-12-x86_64).
  type: str
  returned: success
packages:
  description: Versions, by C(name:architecture).
  type: dict
  returned: success
"""

import os
import shlex
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

_FORMAT = "${db:Status-Status}\t${Package}:${Architecture}\t${Version}\n"


def parse_status(printed: str) -> dict[str, str]:
    """Return the versions of installed packages, by ``name:architecture``, from what dpkg-query prints."""
    lines = (line.split("\t") for line in printed.splitlines())
    return {name: version for status, name, version in lines if status == "installed"}


def target(os_release: str, machine: str) -> str:
    """Return the target's name from the text of an os-release file (os-release(5)) and ``uname -m``."""
    words = (line.partition("=") for line in os_release.splitlines())
    fields = {key: "".join(shlex.split(value)) for key, separator, value in words if separator}
    return f"{fields.get('ID', 'unknown')}-{fields.get('VERSION_ID', 'unknown')}-{machine}"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    _, printed, _ = module.run_command(["dpkg-query", "--show", f"--showformat={_FORMAT}"], check_rc=True)
    release = Path("/etc/os-release").read_text(encoding="utf-8")
    module.exit_json(changed=False, target=target(release, os.uname().machine), packages=parse_status(printed))


if __name__ == "__main__":
    main()
