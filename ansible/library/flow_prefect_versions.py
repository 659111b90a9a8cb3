#!/usr/bin/python
"""Ansible module: which versions of Prefect the deployed flows run with."""

from __future__ import annotations

DOCUMENTATION = r"""
module: flow_prefect_versions
short_description: Tell which versions of Prefect the deployed flows run with
description:
  - Reads the controller's records of deployed flows. Changes nothing. Runs on the controller.
options:
  root:
    description: Where bundles are installed.
    type: path
    required: true
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: pag
"""

EXAMPLES = r"""
- name: Ask which versions of Prefect the flows have
  flow_prefect_versions:
    root: /opt/pag
  register: __upgrade_flows
"""

RETURN = r"""
flows:
  description: One entry for each deployment and version, with C(flow) (C(<flow>/<deployment>)) and C(version).
  type: list
  elements: dict
  returned: success
"""

import sys
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.flow_registry import CURRENT, NEXT


class FlowsError(Exception):
    """The records cannot be read; the message is one sentence for the operator."""


def versions(root: Path) -> list[dict[str, str]]:
    """Return the deployments and their versions of Prefect, sorted. Raises FlowsError."""
    # What knows the site came with the bundle. Compiled modules that root left there would outlive the next bundle's.
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(root))
    try:
        from airgap.environment import Environment
        from airgap.errors import AirgapError
        from airgap.site import Site
    except ImportError as error:
        raise FlowsError(f"There is no bundle below {root} ({error}): run install-pag-controller.sh.") from error
    found = set()
    try:
        for record in Site(root).flow_records():
            if _in_use(record.directory):
                name = record.content.get("full_name", f"{record.content['flow']}/{record.content['deployment']}")
                for description in record.descriptions.values():
                    version = Environment.from_file(description).version_of("prefect")
                    if version is not None:
                        found.add((name, version))
    except (AirgapError, OSError) as error:
        raise FlowsError(str(error)) from error
    return [{"flow": flow, "version": version} for flow, version in sorted(found)]


def _in_use(directory: Path) -> bool:
    """Return whether the version of a flow that *directory* keeps is the one that runs, or is about to."""
    if directory.parent.name != "versions":  # deployed by an earlier release, which kept one
        return True
    links = [directory.parents[1] / name for name in (CURRENT, NEXT)]
    return any(link.resolve() == directory.resolve() for link in links if link.is_symlink())


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={"root": {"type": "path", "required": True}}, supports_check_mode=True)
    try:
        module.exit_json(changed=False, flows=versions(Path(module.params["root"])))
    except FlowsError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
