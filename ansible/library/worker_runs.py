#!/usr/bin/python
"""Ansible module: the flow runs that a worker of this node has under way."""

from __future__ import annotations

DOCUMENTATION = r"""
module: worker_runs
short_description: List the runs that a worker has under way, or wait until it has none
description:
  - Reads the record that the worker keeps in its state directory. The server is not asked.
  - A worker that does not run has none, and nothing is waited for.
options:
  kind:
    description: Which of the node's workers.
    type: str
    choices: [cpu, gpu]
    required: true
  wait_seconds:
    description: Wait until there are none, for so many seconds at most.
    type: int
    default: 0
  hold:
    description:
      - Keep the worker from taking runs meanwhile. That ends by itself within a minute after the module has ended, also
        when it is killed; remove C(/run/prefect-worker-KIND.hold) to end it at once.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    details: Does not wait, and holds nothing.
  diff_mode:
    support: none
author: pag
"""

EXAMPLES = r"""
- name: Wait until the worker has no runs
  worker_runs:
    kind: cpu
    hold: true
    wait_seconds: 3600
  register: __runs
"""

RETURN = r"""
runs:
  description: The runs under way at the end, each as C(name (id)).
  type: list
  returned: always
waited:
  description: Seconds that were waited.
  type: int
  returned: always
"""

import time
from collections.abc import Callable

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.worker_holds import Holds
from ansible.module_utils.worker_record import Record

_PAUSE_SECONDS = 2.0


def runs_of(record: Record) -> list[str]:
    """Return the runs under way, for people."""
    return [f"{entry.name or 'a run'} ({entry.id})" for entry in record.under_way()]


def wait(runs: Callable[[], list[str]], hold: Callable[[], None], seconds: float) -> list[str]:
    """Return the runs that are left after *seconds*, or an empty list as soon as there are none.

    *hold* is called before every look.
    """
    deadline = time.monotonic() + seconds
    hold()
    # A worker that was about to take a run when it was held has recorded it a moment later.
    time.sleep(min(_PAUSE_SECONDS, seconds))
    while True:
        left = runs()
        if not left or time.monotonic() >= deadline:
            return left
        hold()
        time.sleep(_PAUSE_SECONDS)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "kind": {"type": "str", "choices": ["cpu", "gpu"], "required": True},
            "wait_seconds": {"type": "int", "default": 0},
            "hold": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    kind = module.params["kind"]
    unit = f"prefect-worker-{kind}.service"
    record, holds = Record.of(kind), Holds.of(kind)

    def state() -> str:
        _, shown, _ = module.run_command(["systemctl", "show", "--property=ActiveState", "--value", "--", unit])
        return str(shown).strip()

    def runs() -> list[str]:
        return runs_of(record) if state() in ("active", "deactivating") else []

    def hold() -> None:
        if module.params["hold"]:
            holds.hold.touch(mode=0o644)

    started = time.monotonic()
    at_once = module.check_mode or state() in ("inactive", "failed")
    left = runs() if at_once else wait(runs, hold, module.params["wait_seconds"])
    module.exit_json(changed=False, runs=left, waited=round(time.monotonic() - started))


if __name__ == "__main__":
    main()
