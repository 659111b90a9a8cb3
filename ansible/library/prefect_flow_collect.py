#!/usr/bin/python
"""Ansible module: remove versions of flows that nothing needs any more from a node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_flow_collect
short_description: Remove versions of flows, and their environments, that nothing on a node needs
description:
  - Of the flows in O(keep), removes the versions that are not named there and that no process of the node uses, and the
    flows' environments that no version is left for. Other flows and the base environments are not touched.
  - Packages in the cache that no environment has are removed as well.
  - Nothing passes for whole while it is removed; what an interrupted removal left is removed by the next.
options:
  flows:
    description: Directory of the flows' code.
    type: path
    default: /opt/prefect/flows
  environments:
    description: Directory of the environments.
    type: path
    default: /opt/prefect/envs
  cache:
    description: Directory of the packages that environments share.
    type: path
    default: /opt/prefect/cache
  keep:
    description: Versions to keep, by flow directory.
    type: dict
    required: true
  names:
    description: Names of environments to keep in any case.
    type: list
    elements: str
    default: []
  packages:
    description: Whether to look for unused packages in the cache also when no environment is removed.
    type: bool
    default: false
  wait:
    description: Seconds to wait for processes that use what is to be removed.
    type: int
    default: 0
attributes:
  check_mode:
    support: full
author: pag
"""

EXAMPLES = r"""
- name: Remove old versions
  prefect_flow_collect:
    keep: {demo2: [0123456789ab, ba9876543210]}
"""

RETURN = r"""
removed:
  description: Paths of versions and environments that were removed.
  type: list
  elements: str
  returned: success
busy:
  description: Paths that only a process uses; the next collection removes them.
  type: list
  elements: str
  returned: success
freed:
  description: How many bytes that freed; in check mode, without packages that only these environments use.
  type: int
  returned: success
"""

import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.flow_registry import bytes_below, discard
from ansible.module_utils.flow_versions import Places, find_unused, remove_unused_packages, unfinished

_POLL_SECONDS = 0.5


def run(parameters: dict[str, Any], *, check: bool) -> dict[str, Any]:
    """Remove, and return the module's result. Raises OSError."""
    places = Places(Path(parameters["flows"]), Path(parameters["environments"]))
    deadline = time.monotonic() + (0 if check else parameters["wait"])
    while (unused := find_unused(places, parameters["keep"], parameters["names"])).kept:
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
    links = [path for path in unused.paths if path.is_symlink()]
    directories = [path for path in unused.paths if not path.is_symlink()] + unfinished(places)
    freed = bytes_below(directories)
    if not check:
        for link in links:
            link.unlink()
        discard(directories)
        for flow, versions in parameters["keep"].items():
            directory = places.flows / flow
            if not versions and directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()
        if directories or parameters["packages"]:
            freed += remove_unused_packages(Path(parameters["cache"]), places.environments)
    return {
        "changed": bool(links or directories or freed),
        "removed": [str(path) for path in unused.paths],
        "busy": [str(path) for path in unused.kept],
        "freed": freed,
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "flows": {"type": "path", "default": "/opt/prefect/flows"},
            "environments": {"type": "path", "default": "/opt/prefect/envs"},
            "cache": {"type": "path", "default": "/opt/prefect/cache"},
            "keep": {"type": "dict", "required": True},
            "names": {"type": "list", "elements": "str", "default": []},
            "packages": {"type": "bool", "default": False},
            "wait": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, check=module.check_mode))
    except OSError as error:
        module.fail_json(msg=f"{error.filename} could not be removed ({error.strerror}): run the playbook again.")


if __name__ == "__main__":
    main()
