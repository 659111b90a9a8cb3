#!/usr/bin/python
"""Ansible module: what of ours is on a node, and what of others would be lost with it."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: node_footprint
short_description: Say what uninstalling would remove, and what stands in its way
description:
  - Finds the systemd units that were installed, and what belongs to somebody else, files in the service user's home and
    processes of this user. Changes nothing.
options:
  root:
    description: Where the bundle's files are on the node.
    type: path
    required: true
  home:
    description: The service user's home.
    type: path
    required: true
  own:
    description: Names in the home that the installation made. Hidden ones count as traces of logins.
    type: list
    elements: str
    required: true
  results:
    description: Directories with results of flow runs, which are somebody's when they are not empty.
    type: list
    elements: path
    default: []
  user:
    description: The service user.
    type: str
    required: true
  units:
    description: Patterns of the names of the units.
    type: list
    elements: str
    required: true
  other_units:
    description: Names of units that stay although a pattern matches them.
    type: list
    elements: str
    default: []
  record:
    description: The record of what was there before, see M(node_before).
    type: path
    default: /var/lib/pag/before.json
attributes:
  check_mode:
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Look what there is
  node_footprint:
    root: /opt/pag
    home: /opt/prefect
    own: [envs, cache, flows, pixi-env]
    user: prefect
    units: ["prefect-*"]
"""

RETURN = r"""
installed:
  description: Whether anything was installed that is not removed yet.
  type: bool
  returned: success
units:
  description: Names of the units that are installed.
  type: list
  elements: str
  returned: success
paths:
  description: Paths of their files and drop-ins.
  type: list
  elements: str
  returned: success
files:
  description: Files and directories of others that would be lost.
  type: list
  elements: str
  returned: success
processes:
  description: Processes of the service user outside of the units, as C(pid command).
  type: list
  elements: str
  returned: success
machine_id:
  description: The machine's /etc/machine-id.
  type: str
  returned: success
before:
  description: What the record says; empty when there is none.
  type: dict
  returned: success
"""

import fnmatch
import json
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNITS = Path("/etc/systemd/system")
_CHANGES = "pag.conf"
# The units of flow runs, which are in no file.
_RUNS = "flow-run-*"
_SUFFIXES = (".service", ".socket", ".timer", ".path", ".target", ".mount", ".slice")


def unit_paths(patterns: Sequence[str], others: Sequence[str], directory: Path = _UNITS) -> list[Path]:
    """Return the unit files that match, the directories of their drop-ins, and our drop-ins for other units."""

    def matches(path: Path) -> bool:
        name = path.name.removesuffix(".d")
        return (
            name.endswith(_SUFFIXES)
            and name not in others
            and any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
        )

    if not directory.is_dir():
        return []
    ours = {path for path in directory.iterdir() if matches(path)}
    # What we changed of units of others, with the directory where there is nothing else in it.
    changes = [path for path in directory.glob(f"*.d/{_CHANGES}") if path.parent not in ours]
    ours |= {path if len(list(path.parent.iterdir())) > 1 else path.parent for path in changes}
    return sorted(ours)


def files_of_others(home: Path, own: Sequence[str], results: Sequence[Path]) -> list[str]:
    """Return what is in the home and was not made by the installation, and results of flow runs."""
    found = [path for path in home.iterdir() if path.name not in own and path.name[0] != "."] if home.is_dir() else []
    # Each flow that ran has a directory there.
    found += [path for path in results if any(not entry.is_dir() for entry in path.rglob("*"))]
    return sorted(map(str, found))


def processes_of(user: str, patterns: Sequence[str], proc: Path = Path("/proc")) -> list[str]:
    """Return the user's processes that no unit of ours started."""
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        return []
    found = []
    for process in proc.glob("[0-9]*"):
        try:
            if process.stat().st_uid != uid:
                continue
            parts = (process / "cgroup").read_text(encoding="ascii").replace("\n", "/").split("/")
            command = (process / "cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " ").strip()
        except OSError:
            continue  # it ended meanwhile
        if not any(fnmatch.fnmatch(part, pattern) for part in parts for pattern in patterns):
            found.append((int(process.name), command.partition(" ")[0]))
    return [f"{pid} {command}" for pid, command in sorted(found)]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "home": {"type": "path", "required": True},
            "own": {"type": "list", "elements": "str", "required": True},
            "results": {"type": "list", "elements": "path", "default": []},
            "user": {"type": "str", "required": True},
            "units": {"type": "list", "elements": "str", "required": True},
            "other_units": {"type": "list", "elements": "str", "default": []},
            "record": {"type": "path", "default": "/var/lib/pag/before.json"},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    paths = unit_paths(parameters["units"], parameters["other_units"])
    record = Path(parameters["record"])
    machine_id = Path("/etc/machine-id")
    module.exit_json(
        changed=False,
        # The record is deleted last, and nodes of earlier versions have none.
        installed=record.exists() or Path(parameters["root"]).exists(),
        units=sorted({path.name for path in paths if path.name.endswith(_SUFFIXES)}),
        paths=list(map(str, paths)),
        files=files_of_others(Path(parameters["home"]), parameters["own"], list(map(Path, parameters["results"]))),
        processes=processes_of(parameters["user"], [*parameters["units"], _RUNS]),
        machine_id=machine_id.read_text(encoding="ascii").strip() if machine_id.is_file() else "",
        before=json.loads(record.read_text(encoding="utf-8")) if record.exists() else {},
    )


if __name__ == "__main__":
    main()
