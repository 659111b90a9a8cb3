#!/usr/bin/python
"""Ansible module: which versions of flows a node has as a whole."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_flow_installed
short_description: Look which versions of flows a node has
description:
  - Holds the code of each wanted version against its digest, and looks whether its environment is complete.
  - With O(list), says how large versions and environments are. Reads only.
options:
  flows:
    description: Directory of the flows' code.
    type: path
    default: /opt/prefect/flows
  environments:
    description: Directory of the environments.
    type: path
    default: /opt/prefect/envs
  wanted:
    description: Versions, as M(prefect_flow_registry) returns them in needed.
    type: list
    elements: dict
    default: []
  target:
    description: The node's target, for example C(debian-12-x86_64).
    type: str
  list:
    description: Whether to return all versions.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
author: pag
"""

EXAMPLES = r"""
- name: Look which versions the node lacks
  prefect_flow_installed:
    wanted: "{{ registry.needed }}"
    target: debian-12-x86_64
"""

RETURN = r"""
lacking:
  description: The wanted versions that the node does not have as a whole.
  type: list
  elements: dict
  returned: success
older:
  description: Directories of the wanted flows' code that is there as a whole, by flow, the newest first.
  type: dict
  returned: success
versions:
  description: With O(list), each version with flow, version, complete, size, environment, environment_size and used (by
    a process).
  type: list
  elements: dict
  returned: success
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.flow_registry import MARKER
from ansible.module_utils.flow_versions import Places, environment_of, is_complete

# rsync takes no more directories that have files already.
_OLDER = 20


def lacks(places: Places, wanted: dict[str, Any], target: str) -> bool:
    """Return whether the node lacks a version, or a part of it; one that has no environment for it counts too."""
    environment = wanted["environments"].get(target)
    if environment is None:
        return True
    common = wanted["common"]
    return not is_complete(
        places.flows / wanted["flow"] / wanted["version"],
        wanted["marker"],
        wanted["digest"],
        places.environments / environment["directory"],
        places.environments / common if common else None,
    )


def older(places: Places, flow: str) -> list[str]:
    """Return the directories of a flow's code, the newest first."""
    whole = [path for path in places.versions(flow) if (path / MARKER).is_file()]
    return [str(path) for path in sorted(whole, key=lambda path: -path.stat().st_mtime)[:_OLDER]]


def listed(places: Places) -> list[dict[str, Any]]:
    """Return all versions that are there."""
    used = places.in_use()
    sizes: dict[Path, int] = {}
    found = []
    for path in places.versions():
        environment = environment_of(path)
        if environment is not None and environment not in sizes:
            sizes[environment] = size(environment)
        found.append(
            {
                "flow": path.parent.name,
                "version": path.name,
                "complete": (path / MARKER).is_file(),
                "size": size(path),
                "environment": environment.name if environment else None,
                "environment_size": sizes.get(environment, 0) if environment else 0,
                "used": path in used,
            }
        )
    return found


def size(directory: Path) -> int:
    """Return how many bytes the files below *directory* have."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "flows": {"type": "path", "default": "/opt/prefect/flows"},
            "environments": {"type": "path", "default": "/opt/prefect/envs"},
            "wanted": {"type": "list", "elements": "dict", "default": []},
            "target": {"type": "str"},
            "list": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    places = Places(Path(parameters["flows"]), Path(parameters["environments"]))
    wanted = parameters["wanted"]
    module.exit_json(
        changed=False,
        lacking=[entry for entry in wanted if lacks(places, entry, parameters["target"])],
        older={flow: older(places, flow) for flow in sorted({entry["flow"] for entry in wanted})},
        versions=listed(places) if parameters["list"] else [],
    )


if __name__ == "__main__":
    main()
