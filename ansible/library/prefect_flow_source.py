#!/usr/bin/python
"""Ansible module: what a flow directory on the controller asks for."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_flow_source
short_description: Read a flow directory and check what can be checked without running it
description:
  - Reads the arguments of the flow playbook and, where there is one, the flow directory's C(prefect.yaml).
  - Checks the entrypoint's form, file and function, and finds the environment that the flow runs in, for each target.
  - Changes nothing.
options:
  flow_dir:
    description: The flow directory.
    type: path
    required: true
  entrypoint:
    description: File and function, C(main.py:my_workflow).
    type: str
  work_pool:
    description: Work pool; cpu-pool when neither this nor C(prefect.yaml) names one.
    type: str
  deployment_name:
    description: Name of the deployment; the function's name when it is not given.
    type: str
  schedule:
    description: Cron expression, recurrence rule, number of seconds, dictionary, or C(none).
    type: raw
  default_parameters:
    description: Dictionary, or its JSON.
    type: raw
  job_variables:
    description: Dictionary of job variables, or its JSON.
    type: raw
  tags:
    description: List, its JSON, or words with commas between them.
    type: raw
  packed_env:
    description:
      - File with the packed environment, in the flow directory or with its full path. A file beside it with a target in
        its name, as C(packed-env.debian-12-x86_64.tar), is the one for nodes of that target.
    type: str
    default: packed-env.tar
  root:
    description: Where the bundle is installed on the controller.
    type: path
    default: /opt/pag
attributes:
  check_mode:
    support: full
author: pag
"""

EXAMPLES = r"""
- name: Read the flow directory
  prefect_flow_source:
    flow_dir: /home/operator/flows/demo2
    entrypoint: main.py:my_workflow
"""

RETURN = r"""
flow:
  description: name, directory, digest (of the code), files, and deployments.
  type: dict
  returned: always
pack:
  description: Path of the packed environment for targets that have none of their own; none when there is no such file.
  type: str
  returned: always
packs:
  description: Paths of packed environments by target. Without any pack, the bundle has the flow's environment.
  type: dict
  returned: always
pack_digests:
  description: SHA-256 of the packed environments, by file name.
  type: dict
  returned: always
descriptions:
  description: Paths of the descriptions of the bundle's environments for the flow, by target; empty with a pack.
  type: dict
  returned: always
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.flow_environment import read_source
from ansible.module_utils.flow_source import DEFAULT_PACK, FlowSourceError, Request


def run(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the module's result. Raises FlowSourceError."""

    def given(name: str) -> Any:
        # An argument that is not given reaches a module as an empty text or as nothing, depending on the playbook.
        return parameters[name] or None

    request = Request(
        flow_dir=Path(parameters["flow_dir"]).expanduser(),
        entrypoint=given("entrypoint"),
        work_pool=given("work_pool"),
        deployment_name=given("deployment_name"),
        schedule=parameters["schedule"],
        default_parameters=parameters["default_parameters"],
        tags=parameters["tags"],
        job_variables=parameters["job_variables"],
        packed_env=parameters["packed_env"],
    )
    return {"changed": False, **read_source(request, Path(parameters["root"]))}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "flow_dir": {"type": "path", "required": True},
            "entrypoint": {"type": "str"},
            "work_pool": {"type": "str"},
            "deployment_name": {"type": "str"},
            "schedule": {"type": "raw"},
            "default_parameters": {"type": "raw"},
            "tags": {"type": "raw"},
            "job_variables": {"type": "raw"},
            "packed_env": {"type": "str", "default": DEFAULT_PACK},
            "root": {"type": "path", "default": "/opt/pag"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params))
    except (FlowSourceError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
