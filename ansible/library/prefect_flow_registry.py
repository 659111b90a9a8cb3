#!/usr/bin/python
"""Ansible module: what the controller's registry of deployed flows has."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_flow_registry
short_description: Read the controller's registry of deployed flows
description:
  - Returns the deployments that are kept with their versions, and what nodes need of them.
  - With O(flow), fails in a sentence when there is no such deployment, or version. Changes nothing.
options:
  registry:
    description: Directory of the registry.
    type: path
    required: true
  flow:
    description: Name of a flow directory, or of a flow as Prefect has it. Left out, all are returned.
    type: str
  deployment:
    description: Name of one of its deployments.
    type: str
  version:
    description: Beginning of a version to go back to. Without O(flow), it is the one that has such a version.
    type: str
attributes:
  check_mode:
    support: full
author: pag
"""

EXAMPLES = r"""
- name: Look which flows are deployed
  prefect_flow_registry:
    registry: /opt/pag/flows

- name: Look what to go back to
  prefect_flow_registry:
    registry: /opt/pag/flows
    flow: demo2
    version: 0123abcd
"""

RETURN = r"""
deployments:
  description: Each with flow, deployment, full_name, work_pool, current and versions (version, deployed, size,
    environments).
  type: list
  elements: dict
  returned: success
needed:
  description: The versions that nodes of their work_pool need, with flow, version, marker, common (the name of an
    earlier release for the environment, or none), source (directory with the code), files, and environments by target
    (description, directory).
  type: list
  elements: dict
  returned: success
keep:
  description: The versions that nodes keep where they have them, by flow directory.
  type: dict
  returned: success
chosen:
  description: With O(version), what M(prefect_flow_source) returns, for that version.
  type: dict
  returned: success
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.flow_registry import (
    KeptDeployment,
    KeptVersion,
    Registry,
    RegistryError,
    common_name,
    marker_of,
)


def described(deployment: KeptDeployment) -> dict[str, Any]:
    """Return a deployment for reports."""
    versions = deployment.versions()
    current = deployment.current() or versions[0]
    return {
        "flow": deployment.flow,
        "deployment": deployment.name,
        "full_name": current.record.get("full_name"),
        "work_pool": current.record.get("work_pool"),
        "current": current.version,
        "versions": [
            {
                "version": kept.version,
                "deployed": kept.record.get("deployed", ""),
                "size": kept.record.get("size", 0),
                "environments": {target: entry["directory"] for target, entry in kept.record["environments"].items()},
            }
            for kept in versions
        ],
    }


def needed(kept: KeptVersion) -> dict[str, Any]:
    """Return what a node has to know of a version to have it."""
    record = kept.record
    return {
        "flow": record["flow"],
        "deployment": record["deployment"],
        "work_pool": record["work_pool"],
        "version": kept.version,
        "digest": record["digest"],
        "marker": marker_of(record),
        "common": common_name(record),
        "source": str(kept.directory / "code"),
        "files": record["files"],
        "environments": {
            target: {"description": str(kept.directory / entry["description"]), "directory": entry["directory"]}
            for target, entry in record["environments"].items()
        },
    }


def chosen(deployment: KeptDeployment, kept: KeptVersion) -> dict[str, Any]:
    """Return a version as if its flow directory had been read, with what the server shall have for it."""
    record, settings = kept.record, kept.record["settings"]
    asked = {"version": None} | record["asked"]
    wanted = {key: settings[key] for key in ("parameters", "tags", "schedules", "concurrency_limit", "env")}
    # Earlier releases knew of no others.
    wanted["job_variables"] = settings.get("job_variables", {})
    return {
        "flow": {
            "name": deployment.flow,
            "directory": str(kept.directory / "code"),
            "digest": record["digest"],
            "files": record["files"],
            "deployments": [asked | wanted | {"description": settings["description"]}],
        },
        "version": kept.version,
        "described": {
            "name": settings["flow_name"],
            "description": settings["description"],
            "parameter_schema": settings["parameter_schema"],
        },
        "asked": record["asked"],
        "pack": None,
        "packs": {},
        "pack_digests": record["packs"],
        "descriptions": {target: entry["description"] for target, entry in needed(kept)["environments"].items()},
    }


def run(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the module's result. Raises RegistryError."""
    registry = Registry(Path(parameters["registry"]))
    flow, name, version = (parameters[key] or None for key in ("flow", "deployment", "version"))
    result: dict[str, Any] = {"changed": False, "keep": registry.kept()}
    if version:
        result["chosen"] = chosen(*registry.choose_version(flow, name, version))
    deployments = registry.choose(flow, name) if flow else registry.deployments()
    result["deployments"] = [described(deployment) for deployment in deployments]
    result["needed"] = [needed(kept) for deployment in deployments for kept in deployment.needed()]
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "registry": {"type": "path", "required": True},
            "flow": {"type": "str"},
            "deployment": {"type": "str"},
            "version": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params))
    except RegistryError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
