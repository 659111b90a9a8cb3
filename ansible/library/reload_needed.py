#!/usr/bin/python
"""Ansible module: whether a service that reloads by replacing its processes still has older files than the disk."""

from __future__ import annotations

DOCUMENTATION = r"""
module: reload_needed
short_description: Say whether a service that reloads by replacing its processes has older files than those on disk
description:
  - Compares when the newest child of the unit's main process started with when O(files) were written. nginx, for
    example, starts new worker processes when it reads its configuration again.
  - Looks at the state alone, so that a playbook which was killed between writing a file and reloading is made good by
    its next run. Changes nothing.
  - A unit that does not run needs no reload, it needs a start.
options:
  name:
    description: Name of the unit, with its suffix.
    type: str
    required: true
  files:
    description: Files and directories that the service reads. One that is missing is passed over.
    type: list
    elements: path
    required: true
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: pag
"""

EXAMPLES = r"""
- name: Ask whether nginx has read its configuration
  reload_needed:
    name: nginx.service
    files: [/etc/nginx/conf.d/prefect.conf]
  register: __prefect_server_proxy
"""

RETURN = r"""
needed:
  description: Whether the unit has to be reloaded for what is on disk.
  type: bool
  returned: always
reason:
  description: Why, in one sentence.
  type: str
  returned: always
"""

import os
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

# The nineteenth field after the program's name, in proc_pid_stat(5): the start, in clock ticks since boot.
_START_FIELD = 19


def newest_child(process: int, proc: Path = Path("/proc")) -> float | None:
    """Return when the newest child of a process was started, in seconds since boot; None when it has none."""
    starts = []
    for status in proc.glob("[0-9]*/stat"):
        try:
            # The program's name, in brackets, may have spaces in it.
            fields = status.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[1]) == process:
            starts.append(int(fields[_START_FIELD]) / os.sysconf("SC_CLK_TCK"))
    return max(starts, default=None)


def verdict(name: str, started: float, files: list[Path], now: float) -> tuple[bool, str]:
    """Return whether the unit *name*, whose newest child started then, has to be reloaded, and why in one sentence.

    Times are seconds since the epoch. A file from the future, because the clock was set back, counts as read.
    """
    for path in files:
        try:
            written = path.stat().st_mtime
        except FileNotFoundError:
            continue
        if started < written <= now:
            return True, f"{path} was written {written - started:.0f} s after {name} read its configuration."
    return False, f"{name} read its configuration after its files were written."


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "files": {"type": "list", "elements": "path", "required": True},
        },
        supports_check_mode=True,
    )
    name = module.params["name"]
    command = ["systemctl", "show", "--property=MainPID", "--value", "--", name]
    returncode, output, error = module.run_command(command)
    if returncode != 0:
        module.fail_json(msg=f"systemctl cannot say how {name} is: {error.strip() or output.strip()}")
    main_process = int(output.strip() or 0)
    child = newest_child(main_process) if main_process else None
    if child is None:
        module.exit_json(changed=False, needed=False, reason=f"{name} is not running.")
    started = time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - child)
    needed, reason = verdict(name, started, [Path(path) for path in module.params["files"]], time.time())
    module.exit_json(changed=False, needed=needed, reason=reason)


if __name__ == "__main__":
    main()
