#!/usr/bin/python
"""Ansible module: remove versions of flows from the controller's registry."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_flow_forget
short_description: Remove old versions, or whole deployments, from the controller's registry of flows
description:
  - Without O(deployments), removes versions beyond O(keep_versions) of O(flow), or of all flows. The current version
    always stays, and one that is being switched to.
  - A removal that was interrupted is completed by the next one.
options:
  registry:
    description: Directory of the registry.
    type: path
    required: true
  flow:
    description: Name of the flow directory. Left out, all are meant.
    type: str
  keep_versions:
    description: How many versions of each deployment are kept, the current one among them.
    type: int
    default: 3
  deployments:
    description: Names of deployments of O(flow) to remove with all their versions.
    type: list
    elements: str
  keep_flow:
    description: Whether the flow stays known without deployments, so that nodes which could not be reached are cleaned
      when they are back.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
author: pag
"""

EXAMPLES = r"""
- name: Remove old versions
  prefect_flow_forget:
    registry: /opt/pag/flows
    flow: demo2
    keep_versions: 3
"""

RETURN = r"""
removed:
  description: What was removed, as C(flow/deployment/version).
  type: list
  elements: str
  returned: success
freed:
  description: How many bytes that freed.
  type: int
  returned: success
keep:
  description: The versions that nodes keep afterwards, by flow directory; of O(flow) only, where it is given.
  type: dict
  returned: success
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.flow_registry import Registry, RegistryError, bytes_below, discard, leftovers


def run(parameters: dict[str, Any], *, check: bool) -> dict[str, Any]:
    """Remove, and return the module's result. Raises RegistryError, OSError."""
    registry = Registry(Path(parameters["registry"]))
    flow, names = parameters["flow"], parameters["deployments"]
    if parameters["keep_versions"] < 1:
        raise RegistryError(f"keep_versions is {parameters['keep_versions']}: keep at least 1, the current version.")
    deployments = registry.deployments(flow)
    unfinished = [path for found in deployments for path in leftovers(found.directory / "versions")]
    if flow is not None:
        unfinished += leftovers(registry.root / flow)
    if names is None:
        old = [(found, kept) for found in deployments for kept in found.superfluous(parameters["keep_versions"])]
        doomed = [kept.directory for _, kept in old]
        removed = [f"{found.words}/{kept.version}" for found, kept in old]
    else:
        gone = [found for found in deployments if found.name in names]
        doomed = [found.directory for found in gone]
        removed = [f"{found.words}/{kept.version}" for found in gone for kept in found.versions()]
    freed = bytes_below([*doomed, *unfinished])
    keep = {
        name: [version for version in versions if not _only_in(registry, name, version, doomed)]
        for name, versions in registry.kept().items()
        if flow in (None, name)
    }
    if not check:
        discard([*doomed, *unfinished])
        if names is not None and not parameters["keep_flow"] and not registry.deployments(flow):
            discard([registry.root / flow])
    return {"changed": bool(doomed or unfinished), "removed": sorted(removed), "freed": freed, "keep": keep}


def _only_in(registry: Registry, flow: str, version: str, doomed: list[Path]) -> bool:
    """Return whether no deployment has *version* but in one of the *doomed* directories."""
    places = [
        kept.directory for found in registry.deployments(flow) for kept in found.versions() if kept.version == version
    ]
    return all(any(place == path or path in place.parents for path in doomed) for place in places)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "registry": {"type": "path", "required": True},
            "flow": {"type": "str"},
            "keep_versions": {"type": "int", "default": 3},
            "deployments": {"type": "list", "elements": "str"},
            "keep_flow": {"type": "bool", "default": False},
        },
        required_by={"deployments": ("flow",)},
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, check=module.check_mode))
    except RegistryError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename} could not be removed: {error.strerror}.")


if __name__ == "__main__":
    main()
