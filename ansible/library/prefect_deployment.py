#!/usr/bin/python
"""Ansible module: a deployment on a Prefect server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_deployment
short_description: Create or change a deployment
description:
  - Asks the server for the deployment, compares, and sends only what differs, so runs that are under way and schedules
    that did not change are left alone.
  - The schedules, parameters and tags of a deployment that is there are left as they are unless they are given.
options:
  flow_name:
    description: Name of the flow.
    type: str
    required: true
  name:
    description: Name of the deployment.
    type: str
    required: true
  work_pool:
    description: Name of the work pool, which must exist.
    type: str
    required: true
  entrypoint:
    description: File and function, C(main.py:my_workflow), below O(path).
    type: str
    required: true
  path:
    description:
      - Directory on the workers that holds this version of the code. Runs are told it, with the entrypoint, when a
        worker takes them, so that one that starts while the deployment is switched has code and environment of one
        version.
    type: path
    required: true
  owner:
    description: Directory that holds all versions of this flow's code. A deployment of the same name whose code is
      elsewhere belongs to another flow directory and is not touched.
    type: path
    required: true
  command:
    description: What a worker runs for a flow run.
    type: str
    required: true
  env:
    description: Variables for the environment of flow runs.
    type: dict
  job_variables:
    description:
      - More job variables of runs, which the work pool must have. An empty dictionary takes away those that the
        deployment has; not given, they stay.
    type: dict
  parameters:
    description: Default parameters of runs.
    type: dict
  parameter_schema:
    description: OpenAPI schema of the flow's parameters.
    type: dict
    required: true
  schedules:
    description: When runs start, each as the API has it (C(schedule), and where wanted C(active), C(slug),
      C(parameters)); an empty list for never.
    type: list
    elements: dict
  tags:
    description: Tags of the deployment and its runs.
    type: list
    elements: str
  description:
    description: What the flow does, in Markdown.
    type: str
  version:
    description: Version of the deployment.
    type: str
  concurrency_limit:
    description: How many runs of the deployment run at once; -1 for no limit.
    type: int
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
  diff_mode:
    support: full
author: pag
"""

EXAMPLES = r"""
- name: Deploy the flow
  prefect_deployment:
    flow_name: my-workflow
    name: my_workflow
    work_pool: cpu-pool
    entrypoint: main.py:my_workflow
    path: /opt/prefect/flows/demo2/0123456789ab
    owner: /opt/prefect/flows/demo2
    command: /opt/prefect/envs/demo2-ba9876543210/env/bin/python -m prefect.engine
    parameter_schema: {type: object, properties: {}}
    schedules:
      - schedule: {cron: 0 6 * * *, timezone: UTC}
    api_url: https://server:4200/api
    api_auth: "{{ prefect_basic_auth_key }}"
"""

RETURN = r"""
full_name:
  description: What operators call the deployment, C(flow/deployment).
  type: str
  returned: always
created:
  description: Whether the deployment was not there before.
  type: bool
  returned: always
changes:
  description: Names of the settings that differed.
  type: list
  returned: always
settings:
  description: What the deployment has now, by the names of the options. Not in check mode.
  type: dict
  returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.deployment_settings import ENTRYPOINT_VARIABLE, found_settings, options_of, other_variables
from ansible.module_utils.job_template import variables_of
from ansible.module_utils.prefect_api import API_ARGUMENTS, PrefectApi, PrefectApiError, differences, quoted

# What the server puts before a recurrence rule that has no start.
_DEFAULT_START = "DTSTART:20200101T000000\n"


def wanted_settings(parameters: dict[str, Any], found: dict[str, Any] | None) -> dict[str, Any]:
    """Return the settings that the parameters ask for, as the API names them, for the deployment that was *found*."""
    given = parameters["job_variables"]
    job_variables: dict[str, Any] = (other_variables(found or {}) if given is None else given) | {
        "command": parameters["command"],
        "working_dir": parameters["path"],
        "env": {ENTRYPOINT_VARIABLE: f"{parameters['path']}/{parameters['entrypoint']}"} | (parameters["env"] or {}),
    }
    settings: dict[str, Any] = {
        "work_pool_name": parameters["work_pool"],
        "entrypoint": parameters["entrypoint"],
        "path": parameters["path"],
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": parameters["path"]}}],
        "job_variables": job_variables,
        "parameter_openapi_schema": parameters["parameter_schema"],
    }
    optional = ("parameters", "schedules", "tags", "description", "version")
    settings |= {key: parameters[key] for key in optional if parameters[key] is not None}
    limit = parameters["concurrency_limit"]
    if limit is not None:
        settings["concurrency_limit"] = None if limit < 0 else limit
    return settings


def check_job_variables(parameters: dict[str, Any], pool: dict[str, Any]) -> None:
    """Raise PrefectApiError for job variables that the work pool does not have: they would have no effect."""
    known = variables_of(pool.get("base_job_template"))
    unknown = sorted(set(parameters["job_variables"] or {}) - set(known))
    if unknown:
        raise PrefectApiError(
            f"The work pool {parameters['work_pool']} has no job variable {', '.join(unknown)}: it has "
            f"{', '.join(sorted(known)) or 'none'}."
        )


def same_schedules(wanted: list[dict[str, Any]], found: list[dict[str, Any]]) -> bool:
    """Tell whether the server's schedules are the wanted ones; what it adds itself, such as an anchor, is ignored."""

    def fits(wish: dict[str, Any], schedule: dict[str, Any]) -> bool:
        rest = {key: value for key, value in wish.items() if key != "schedule"}
        times = dict(schedule["schedule"])
        if "DTSTART" not in wish["schedule"].get("rrule", "DTSTART"):
            times["rrule"] = str(times.get("rrule")).removeprefix(_DEFAULT_START)
        return not differences(rest, schedule) and not differences(wish["schedule"], times)

    remaining = list(found)
    for wish in wanted:
        match = next((schedule for schedule in remaining if fits(wish, schedule)), None)
        if match is None:
            return False
        remaining.remove(match)
    return not remaining


def changed_settings(wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return the wanted settings that the server has otherwise."""
    changes = differences(wanted, found)
    if "schedules" in changes and same_schedules(wanted["schedules"], found["schedules"]):
        del changes["schedules"]
    if "tags" in changes and sorted(wanted["tags"]) == sorted(found["tags"]):
        del changes["tags"]
    return changes


def update(api: PrefectApi, found: dict[str, Any], changes: dict[str, Any]) -> None:
    """Send the changes. Raises PrefectApiError."""
    path = f"/deployments/{found['id']}"
    schedules = changes.get("schedules")
    rest = {key: value for key, value in changes.items() if key != "schedules"}
    named = [schedule for schedule in found["schedules"] if schedule.get("slug")]
    if schedules is not None and not named:
        # One request, so that there is no moment with the new code and the old schedule.
        rest["schedules"] = schedules
    if rest:
        api.request("PATCH", path, rest)
    if schedules is not None and named:
        # The server never removes a schedule that has a slug by itself.
        for schedule in found["schedules"]:
            api.request("DELETE", f"{path}/schedules/{schedule['id']}")
        if schedules:
            api.request("POST", f"{path}/schedules", schedules)


def settings_now(api: PrefectApi, parameters: dict[str, Any], *, check: bool) -> dict[str, Any]:
    """Return ``settings`` of the result; nothing in check mode, as they would be others. Raises PrefectApiError."""
    if check:
        return {}
    path = f"/deployments/name/{quoted(parameters['flow_name'])}/{quoted(parameters['name'])}"
    return {"settings": options_of(api.request("GET", path), parameters["flow_name"])}


def run(module: AnsibleModule) -> dict[str, Any]:
    """Compare the deployment with what is wanted and make it so. Returns the result; raises PrefectApiError."""
    parameters = module.params
    flow_name, name = parameters["flow_name"], parameters["name"]
    full_name = f"{flow_name}/{name}"
    api = PrefectApi.from_parameters(parameters)
    pool = api.get(f"/work_pools/{quoted(parameters['work_pool'])}")
    if pool is None:
        raise PrefectApiError(
            f"The server has no work pool {parameters['work_pool']}: give another work_pool, or create it first."
        )
    check_job_variables(parameters, pool)
    found = api.get(f"/deployments/name/{quoted(flow_name)}/{quoted(name)}")
    wanted = wanted_settings(parameters, found)

    if found is None:
        if not module.check_mode:
            flow = api.request("POST", "/flows/", {"name": flow_name})
            api.request("POST", "/deployments/", {"name": name, "flow_id": flow["id"]} | wanted)
        return settings_now(api, parameters, check=module.check_mode) | {
            "changed": True,
            "created": True,
            "full_name": full_name,
            "changes": sorted(wanted),
            "diff": {"before": {}, "after": wanted},
        }

    owner = parameters["owner"].rstrip("/") + "/"
    if not (found["path"] or "").startswith(owner):
        raise PrefectApiError(
            f"The deployment {full_name} is there already and its code is in {found['path']}, so it belongs to another "
            "flow directory: give another deployment_name, or delete that deployment first."
        )
    changes = changed_settings(wanted, found_settings(found))
    if changes and not module.check_mode:
        update(api, found, changes)
    return settings_now(api, parameters, check=module.check_mode) | {
        "changed": bool(changes),
        "created": False,
        "full_name": full_name,
        "changes": sorted(changes),
        "diff": {"before": {key: found.get(key) for key in changes}, "after": changes},
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "flow_name": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "work_pool": {"type": "str", "required": True},
            "entrypoint": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
            "owner": {"type": "path", "required": True},
            "command": {"type": "str", "required": True},
            "env": {"type": "dict"},
            "job_variables": {"type": "dict"},
            "parameters": {"type": "dict"},
            "parameter_schema": {"type": "dict", "required": True},
            "schedules": {"type": "list", "elements": "dict"},
            "tags": {"type": "list", "elements": "str"},
            "description": {"type": "str"},
            "version": {"type": "str"},
            "concurrency_limit": {"type": "int"},
            **API_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except PrefectApiError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
