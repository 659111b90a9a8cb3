#!/usr/bin/python
"""Ansible module: take deployments off a Prefect server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_deployment_removal
short_description: Remove deployments from a Prefect server, when none of their runs is active
description:
  - Refuses, with their names, while runs are pending, running, paused or being cancelled. With O(force), cancels them
    and waits until they have ended.
  - Runs that are scheduled only go with the deployment. The flow and the history of its runs stay.
  - A deployment that is not there is no fault, so that a removal that was interrupted can be repeated.
options:
  names:
    description: Deployments, as C(flow/deployment).
    type: list
    elements: str
    required: true
  owner:
    description: Directory that holds all versions of the flow's code. A deployment whose code is elsewhere belongs to
      another flow directory and is not touched.
    type: path
    required: true
  force:
    description: Whether to cancel active runs.
    type: bool
    default: false
  wait:
    description: Seconds to wait for cancelled runs.
    type: int
    default: 120
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
    description: Refuses as it would.
    support: full
author: pag
"""

EXAMPLES = r"""
- name: Remove the deployment
  prefect_deployment_removal:
    names: [my-workflow/my_workflow]
    owner: /opt/prefect/flows/demo2
    api_url: https://server:4200/api
    api_auth: "{{ prefect_basic_auth_key }}"
"""

RETURN = r"""
removed:
  description: Deployments that were removed.
  type: list
  elements: str
  returned: success
cancelled:
  description: Names of runs that were cancelled.
  type: list
  elements: str
  returned: success
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.prefect_api import API_ARGUMENTS, PrefectApi, PrefectApiError, quoted

_ACTIVE = ["PENDING", "RUNNING", "PAUSED", "CANCELLING"]
# The most that the API returns at once.
_PAGE = 200
_POLL_SECONDS = 1.0
_NAMED = 10


def active_runs(api: PrefectApi, deployments: list[str]) -> list[dict[str, Any]]:
    """Return the active runs of deployments, by the deployments' ids. Raises PrefectApiError."""
    found: list[dict[str, Any]] = []
    while deployments:
        query = {
            "flow_runs": {"deployment_id": {"any_": deployments}, "state": {"type": {"any_": _ACTIVE}}},
            "sort": "ID_DESC",
            "limit": _PAGE,
            "offset": len(found),
        }
        page = api.request("POST", "/flow_runs/filter", query)
        found += page
        if len(page) < _PAGE:
            break
    return found


def cancel(api: PrefectApi, runs: list[dict[str, Any]]) -> None:
    """Ask for runs to be cancelled; those that have ended meanwhile are left alone. Raises PrefectApiError."""
    for run in runs:
        if run["state_type"] != "CANCELLING":
            state = {"type": "CANCELLING", "message": "Its deployment is removed."}
            api.request("POST", f"/flow_runs/{run['id']}/set_state", {"state": state})


def words(runs: list[dict[str, Any]]) -> str:
    """Return what sentences call runs."""
    named = ", ".join(f"{run['name']} ({run['state_name']})" for run in runs[:_NAMED])
    return named + (f" and {len(runs) - _NAMED} more" if len(runs) > _NAMED else "")


def run(module: AnsibleModule) -> dict[str, Any]:
    """Remove the deployments, and return the result. Raises PrefectApiError."""
    parameters = module.params
    api = PrefectApi.from_parameters(parameters)
    owner = parameters["owner"].rstrip("/") + "/"
    found = {}
    for name in parameters["names"]:
        flow, _, deployment = name.rpartition("/")
        served = api.get(f"/deployments/name/{quoted(flow)}/{quoted(deployment)}")
        if served is not None and (served["path"] or "").startswith(owner):
            found[name] = served["id"]
    runs = active_runs(api, list(found.values()))
    if runs and not parameters["force"]:
        raise PrefectApiError(
            f"The flow has active runs, {words(runs)}: wait until they have ended, or cancel them with -e force=true. "
            "Nothing was removed."
        )
    if not module.check_mode:
        # From now on, no schedule makes a run.
        for identifier in found.values():
            api.request("PATCH", f"/deployments/{identifier}", {"paused": True})
        cancelled = end(api, list(found.values()), parameters["wait"]) if parameters["force"] else []
        for identifier in found.values():
            api.request("DELETE", f"/deployments/{identifier}")
        runs = cancelled
    return {"changed": bool(found), "removed": sorted(found), "cancelled": sorted(entry["name"] for entry in runs)}


def end(api: PrefectApi, deployments: list[str], seconds: float) -> list[dict[str, Any]]:
    """Cancel active runs until there are none, and return them. Raises PrefectApiError when that takes too long."""
    deadline = time.monotonic() + seconds
    cancelled: dict[str, dict[str, Any]] = {}
    while runs := active_runs(api, deployments):
        cancel(api, runs)
        cancelled |= {entry["id"]: entry for entry in runs}
        if time.monotonic() > deadline:
            raise PrefectApiError(
                f"The runs {words(runs)} were cancelled and have not ended within {seconds:.0f} s: look whether their "
                "workers are up, and run the playbook again."
            )
        time.sleep(_POLL_SECONDS)
    return list(cancelled.values())


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "owner": {"type": "path", "required": True},
            "force": {"type": "bool", "default": False},
            "wait": {"type": "int", "default": 120},
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
