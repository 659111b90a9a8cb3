#!/usr/bin/python
"""Ansible module: the flow runs that have a process on this machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: flow_run_processes
short_description: Tell which flow runs have a process on this machine
description:
  - Workers start each run in a process whose environment names the run. Only asks.
attributes:
  check_mode:
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Ask which runs are alive
  flow_run_processes:
"""

RETURN = r"""
runs:
  description: Ids of the runs, sorted.
  type: list
  returned: success
"""

import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

# Prefect 3 sets the first; 3.4 and later the same.
_VARIABLE = re.compile(rb"(?:^|\0)PREFECT__FLOW_RUN_ID=([0-9a-fA-F-]{32,36})(?:\0|$)")


def runs(processes: Path = Path("/proc")) -> list[str]:
    """Return the ids of the runs that processes below *processes* belong to."""
    found = set()
    for process in processes.glob("[0-9]*"):
        try:
            match = _VARIABLE.search((process / "environ").read_bytes())
        except OSError:
            continue  # it ended meanwhile
        if match:
            found.add(match[1].decode().lower())
    return sorted(found)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    module.exit_json(changed=False, runs=runs())


if __name__ == "__main__":
    main()
