#!/usr/bin/python
"""Ansible module: whether a unit runs with older files than those on disk."""

from __future__ import annotations

DOCUMENTATION = r"""
module: unit_restart_needed
short_description: Say whether a unit runs with older files than those on disk
description:
  - Compares when the unit's main process started with when its unit file, its drop-ins and O(files) were written.
  - Looks at the state alone, so that a playbook which was killed between writing a file and restarting is made good by
    its next run. Changes nothing.
  - A unit that does not run needs no restart, it needs a start.
  - A file whose time lies in the future, because the clock was set back, counts as older than the unit.
options:
  name:
    description: Name of the unit, with its suffix.
    type: str
    required: true
  files:
    description:
      - More files that the unit reads at its start, for example its settings. One that is missing is passed over.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: pag
"""

EXAMPLES = r"""
- name: Ask whether the server runs with older settings
  unit_restart_needed:
    name: prefect-server.service
    files: [/etc/prefect/server.env]
  register: __prefect_server_restart

- name: Restart it
  ansible.builtin.systemd_service:
    name: prefect-server.service
    state: restarted
    daemon_reload: true
  when: __prefect_server_restart.needed
"""

RETURN = r"""
needed:
  description: Whether the unit has to be restarted for what is on disk.
  type: bool
  returned: always
running:
  description: Whether the unit runs, is about to start or is about to stop.
  type: bool
  returned: always
reason:
  description: Why, in one sentence.
  type: str
  returned: always
"""

import shlex
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

_PROPERTIES = (
    "ActiveState",
    "DropInPaths",
    "ExecMainStartTimestampMonotonic",
    "FragmentPath",
    "LoadState",
    "NeedDaemonReload",
)
_RUNNING = ("active", "activating", "deactivating", "reloading", "refreshing")


def properties_of(text: str) -> dict[str, str]:
    """Return what ``systemctl show`` printed, by property."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def verdict(name: str, properties: dict[str, str], files: list[str], now: float, uptime: float) -> tuple[bool, str]:
    """Return whether the unit *name* has to be restarted, and why in one sentence.

    *files* are those that it reads beside its unit files; *now* is the time in seconds since the epoch, *uptime* the
    same moment in seconds of the monotonic clock.
    """
    if properties.get("ActiveState") not in _RUNNING:
        return False, f"{name} is not running."
    if properties.get("NeedDaemonReload") == "yes":
        return True, f"{name} runs with another unit file than the one on disk."
    # The start is in the monotonic clock, files are in the other: both are counted back from now.
    started = now - (uptime - int(properties.get("ExecMainStartTimestampMonotonic") or 0) / 1e6)
    unit_files = [properties.get("FragmentPath", ""), *shlex.split(properties.get("DropInPaths", ""))]
    for path in [*unit_files, *files]:
        written = _written(path)
        if written is not None and started < written <= now:
            return True, f"{path} was written {written - started:.0f} s after {name} was started."
    return False, f"{name} was started after its files were written."


def _written(path: str) -> float | None:
    """Return when a file was written, in seconds since the epoch; None when it is missing."""
    try:
        return Path(path).stat().st_mtime
    except FileNotFoundError:
        return None


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "files": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    name = module.params["name"]
    command = ["systemctl", "show", f"--property={','.join(_PROPERTIES)}", "--", name]
    returncode, output, error = module.run_command(command)
    if returncode != 0:
        module.fail_json(msg=f"systemctl cannot say how {name} is: {error.strip() or output.strip()}")
    properties = properties_of(output)
    needed, reason = verdict(name, properties, module.params["files"], time.time(), time.monotonic())
    module.exit_json(changed=False, needed=needed, reason=reason, running=properties.get("ActiveState") in _RUNNING)


if __name__ == "__main__":
    main()
