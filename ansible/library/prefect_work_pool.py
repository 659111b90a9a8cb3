#!/usr/bin/python
"""Ansible module: a work pool of a Prefect server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_work_pool
short_description: Create, change or delete a work pool
description:
  - Asks the server for the pool, compares, and sends only what differs.
  - What is not given is left as it is, for example a limit that was set in the user interface.
options:
  name:
    description: Name of the pool.
    type: str
    required: true
  type:
    description: Type of the workers that serve the pool. It cannot be changed later.
    type: str
    default: process
  description:
    description: What the pool is for.
    type: str
  concurrency_limit:
    description: How many flow runs the pool runs at once; -1 for no limit.
    type: int
  limits:
    description:
      - Limits of runs whose deployments give no others, C(memory_max), C(cpu_weight), C(tasks_max), C(time_max).
      - Given, even empty, deployments of the pool can have limits. Those that are not given are left as they are.
    type: dict
  paused:
    description: Whether the pool gives out no runs.
    type: bool
  job_variables:
    description:
      - Job variables that deployments and runs can set, each with its JSON schema. Others that the pool has, and
        defaults that were set on the server, stay as they are.
    type: dict
  state:
    description: Whether the pool is there. Deleting it deletes its queues and scheduled runs.
    type: str
    choices: [present, absent]
    default: present
  api_url:
    description: Address of the server's API, ending in /api.
    type: str
    required: true
  api_auth:
    description: Login, C(user:password).
    type: str
    required: true
  api_timeout:
    description: Seconds to wait for an answer.
    type: float
    default: 20
attributes:
  check_mode:
    support: full
    details: A server that does not answer counts as one that has no pools yet.
  diff_mode:
    support: full
author: pag
"""

EXAMPLES = r"""
- name: Have a pool for processes
  prefect_work_pool:
    name: cpu-pool
    type: process
    api_url: http://127.0.0.1:4201/api
    api_auth: "{{ prefect_basic_auth_key }}"
"""

RETURN = r"""
pool:
  description: What was asked for.
  type: dict
  returned: always
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.job_template import with_limits, with_variables
from ansible.module_utils.prefect_api import (
    API_ARGUMENTS,
    PrefectApi,
    PrefectApiError,
    PrefectUnreachableError,
    differences,
    quoted,
)
from ansible.module_utils.run_limits import LimitError, read_limits


def wanted_settings(parameters: dict[str, Any], found: dict[str, Any] | None) -> dict[str, Any]:
    """Return the settings that the parameters ask for, as the API names them, for the pool that was *found*."""
    settings: dict[str, Any] = {}
    if parameters["description"] is not None:
        settings["description"] = parameters["description"]
    if parameters["concurrency_limit"] is not None:
        limit = parameters["concurrency_limit"]
        settings["concurrency_limit"] = None if limit < 0 else limit
    if parameters["paused"] is not None:
        settings["is_paused"] = parameters["paused"]
    if parameters["job_variables"]:
        template = (found or {}).get("base_job_template")
        settings["base_job_template"] = with_variables(template, parameters["job_variables"])
    return settings


def run(module: AnsibleModule) -> dict[str, Any]:
    """Compare the pool with what is wanted and make it so. Returns the module's result; raises PrefectApiError."""
    parameters = module.params
    name, pool_type = parameters["name"], parameters["type"]
    api = PrefectApi.from_parameters(parameters)
    path = f"/work_pools/{quoted(name)}"
    try:
        found = api.get(path)
    except PrefectUnreachableError:
        if not module.check_mode:
            raise
        found = None
    wanted = wanted_settings(parameters, found)

    if parameters["state"] == "absent":
        if found is not None and not module.check_mode:
            api.request("DELETE", path)
        return {"changed": found is not None, "pool": {"name": name}}

    if parameters.get("limits") is not None:
        template = wanted.get("base_job_template") or (found or {}).get("base_job_template") or {}
        wanted["base_job_template"] = with_limits(template, read_limits(parameters["limits"]))
    if found is None:
        pool = {"name": name, "type": pool_type} | wanted
        if not module.check_mode:
            api.request("POST", "/work_pools/", pool)
        return {"changed": True, "pool": pool, "diff": {"before": {}, "after": pool}}

    if found["type"] != pool_type:
        raise PrefectApiError(
            f"The work pool {name} has type {found['type']}, not {pool_type}, and a pool's type cannot be changed: "
            "delete the pool or give another name."
        )
    changes = differences(wanted, found)
    if changes and not module.check_mode:
        api.request("PATCH", path, changes)
    return {
        "changed": bool(changes),
        "pool": {"name": name, "type": pool_type} | wanted,
        "diff": {"before": {key: found.get(key) for key in changes}, "after": changes},
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "type": {"type": "str", "default": "process"},
            "description": {"type": "str"},
            "concurrency_limit": {"type": "int"},
            "limits": {"type": "dict"},
            "paused": {"type": "bool"},
            "job_variables": {"type": "dict"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            **API_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except LimitError as error:
        module.fail_json(msg=f"The limits of the work pool {module.params['name']} cannot be: {error}")
    except PrefectApiError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
