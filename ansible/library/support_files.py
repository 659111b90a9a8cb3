#!/usr/bin/python
"""Ansible module: what a machine can say of itself to somebody who helps."""

from __future__ import annotations

DOCUMENTATION = r"""
module: support_files
short_description: Write a machine's logs, unit states, versions and settings to an archive without secrets
description:
  - Secrets are masked by their known values, in every usual spelling, and by what secrets look like. Of settings only
    the values of documented names are shown.
  - What flow runs said is left out of the workers' journals, unless it is asked for.
  - Changes nothing but the archive, which it writes in check mode too.
options:
  dest:
    description: The archive to write, a C(.tar.gz); readable for root alone.
    type: path
    required: true
  root:
    description: Where the bundle's files are on the machine.
    type: path
    required: true
  home:
    description: Home of the service user.
    type: path
    required: true
  days:
    description: How many days of logs are wanted.
    type: int
    default: 3
  run_logs:
    description: Whether what flow runs said is wanted too.
    type: bool
    default: false
  secrets:
    description: Values that are masked; texts in lists and dictionaries count too.
    type: list
    elements: raw
    default: []
attributes:
  check_mode:
    support: full
author: pag
"""

EXAMPLES = r"""
- name: Gather
  support_files:
    dest: /tmp/ansible.x/support.tar.gz
    root: /opt/pag
    home: /opt/prefect
    secrets: ["{{ prefect_basic_auth_key }}"]
  no_log: true
"""

RETURN = r"""
index:
  description: >-
    files (bytes by path), cut (paths of those of which the beginning was left out), masked (how many secrets, by what
    told them), missing (why, by path), left_out (lines of flow runs, by path).
  type: dict
  returned: always
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.masking import Masker
from ansible.module_utils.support_archive import Archive, flat
from ansible.module_utils.support_sources import Sources


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "dest": {"type": "path", "required": True},
            "root": {"type": "path", "required": True},
            "home": {"type": "path", "required": True},
            "days": {"type": "int", "default": 3},
            "run_logs": {"type": "bool", "default": False},
            "secrets": {"type": "list", "elements": "raw", "default": [], "no_log": True},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    masker = Masker(flat(parameters["secrets"]))
    sources = Sources(masker, parameters["days"], parameters["run_logs"])
    try:
        with Archive(Path(parameters["dest"])) as archive:
            for path, text in sources.parts(Path(parameters["root"]), Path(parameters["home"])):
                archive.add(path, text)
    except OSError as error:
        module.fail_json(msg=f"{parameters['dest']} cannot be written ({error}): make room there.")
    index = {
        "files": archive.files,
        "cut": archive.cut,
        "masked": dict(masker.counts),
        "missing": sources.missing,
        "left_out": sources.left_out,
    }
    module.exit_json(changed=False, index=index)


if __name__ == "__main__":
    main()
