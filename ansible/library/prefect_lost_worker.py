#!/usr/bin/python
"""Ansible module: end the runs of a worker that is dead."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_lost_worker
short_description: End the runs of a worker that is dead
description:
  - A worker that died reports nothing any more, and its runs stay as they were. They become Crashed, or Cancelled where
    somebody had asked for that.
  - A message that begins with C(Lost:) makes the server's automation schedule those again that say so by their tag.
options:
  name:
    description: Name of the worker.
    type: str
    required: true
  message:
    description: What the runs' new states say.
    type: str
    required: true
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
author: pag
"""

EXAMPLES = r"""
- name: End the runs of a dead node
  prefect_lost_worker:
    name: node-1
    message: "Lost: the node is dead, and was removed."
    api_url: https://server:4200/api
    api_auth: "{{ prefect_basic_auth_key }}"
"""

RETURN = r"""
ended:
  description: Names of the runs that were ended.
  type: list
  returned: always
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.prefect_api import API_ARGUMENTS, PrefectApi, PrefectApiError

# States of runs that a worker has taken.
_TAKEN = ("PENDING", "RUNNING", "CANCELLING")
# The most that the API returns at once.
_PAGE = 200
_WORKER_LABEL = "prefect.worker.name"


def runs_of(api: PrefectApi, worker: str) -> list[dict[str, Any]]:
    """Return the runs that *worker* has taken and not ended. Raises PrefectApiError."""
    runs: list[dict[str, Any]] = []
    while True:
        body = {
            "flow_runs": {"state": {"type": {"any_": list(_TAKEN)}}},
            "sort": "ID_DESC",
            "limit": _PAGE,
            "offset": len(runs),
        }
        page = api.request("POST", "/flow_runs/filter", body)
        runs += page
        if len(page) < _PAGE:
            return [run for run in runs if (run.get("labels") or {}).get(_WORKER_LABEL) == worker]


def run(module: AnsibleModule) -> dict[str, Any]:
    """End the runs. Returns the module's result; raises PrefectApiError."""
    api = PrefectApi.from_parameters(module.params)
    lost = runs_of(api, module.params["name"])
    if not module.check_mode:
        for entry in lost:
            kind = "CANCELLED" if entry["state_type"] == "CANCELLING" else "CRASHED"
            state = {"type": kind, "name": kind.capitalize(), "message": module.params["message"]}
            api.request("POST", f"/flow_runs/{entry['id']}/set_state", {"state": state, "force": True})
    return {"changed": bool(lost), "ended": [entry["name"] for entry in lost]}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "message": {"type": "str", "required": True},
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
