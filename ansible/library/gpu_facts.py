#!/usr/bin/python
"""Ansible module: the GPUs of a node, and whether an environment can use them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_facts
short_description: Tell which GPUs a node has
description:
  - Looks at devices and asks the driver's own program. Changes nothing.
options:
  environment:
    description: Description of an environment whose demands on the driver (C(__cuda)) are compared with it.
    type: dict
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: pag
"""

EXAMPLES = r"""
- name: Ask whether the environment can use the node's driver
  gpu_facts:
    environment: "{{ lookup('ansible.builtin.file', description) | from_json }}"
  register: gpus
"""

RETURN = r"""
gpus:
  description: What the node has, C(devices), C(gpus) (id, name, uuid), C(driver), C(cuda), C(amd).
  type: dict
  returned: success
unmet:
  description: What of the environment the driver is too old for, in words; null when nothing is.
  type: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.cuda_needs import unmet
from ansible.module_utils.gpu_inventory import inventory


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={"environment": {"type": "dict"}}, supports_check_mode=True)
    found = inventory()
    environment = module.params["environment"]
    module.exit_json(changed=False, gpus=found, unmet=unmet(environment, found["cuda"]) if environment else None)


if __name__ == "__main__":
    main()
