#!/usr/bin/python
"""Ansible module: give runs an end that a restored server believes to be under way, and that no worker has."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_lost_runs
short_description: End runs that were under way at a backup and have no process any more
description:
  - Runs that were pending, running or being cancelled when the backup was made become Crashed with a sentence, unless
    they have a process on a worker. Runs that have the tag, or whose deployment has it, are scheduled again.
  - Runs of workers that could not be asked are left alone.
options:
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
  before:
    description: When the backup was made, as ISO 8601 has it, with an offset.
    type: str
    required: true
  alive:
    description: Ids of the runs that have a process on a worker.
    type: list
    elements: str
    required: true
  silent_workers:
    description: Names of the workers that could not be asked.
    type: list
    elements: str
    default: []
  rerun_tag:
    description: Tag of runs that are scheduled again.
    type: str
    default: rerun-when-lost
attributes:
  check_mode:
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: End what is lost
  prefect_lost_runs:
    api_url: https://server:4200/api
    api_auth: "{{ prefect_basic_auth_key }}"
    before: "2026-11-20T02:15:00+00:00"
    alive: []
"""

RETURN = r"""
crashed:
  description: Names of the runs that are Crashed now.
  type: list
  returned: success
rescheduled:
  description: Names of the runs that are scheduled again.
  type: list
  returned: success
left:
  description: Names of the runs that have a process, or whose worker could not be asked.
  type: list
  returned: success
"""

from datetime import datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.prefect_api import API_ARGUMENTS, PrefectApi, PrefectApiError

_UNDER_WAY = ("PENDING", "RUNNING", "CANCELLING")
_WORKER_LABEL = "prefect.worker.name"
# The most that the API returns at once.
_PAGE = 200


def when(text: str) -> datetime:
    """Return the moment that an ISO 8601 text names; Python 3.10 does not know the Z."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def under_way(api: PrefectApi, before: datetime) -> list[dict[str, Any]]:
    """Return the runs that are under way and have not told anything since *before*. Raises PrefectApiError."""
    found: list[dict[str, Any]] = []
    wanted = {"flow_runs": {"state": {"type": {"any_": list(_UNDER_WAY)}}}, "sort": "ID_DESC", "limit": _PAGE}
    while True:
        page = api.request("POST", "/flow_runs/filter", {**wanted, "offset": len(found)})
        found += page
        if len(page) < _PAGE:
            return [run for run in found if when(run["state"]["timestamp"]) <= before]


def is_left(run: dict[str, Any], alive: list[str], silent: list[str]) -> bool:
    """Return whether a run may be alive."""
    return run["id"] in alive or (run.get("labels") or {}).get(_WORKER_LABEL) in silent


def is_rerun(api: PrefectApi, run: dict[str, Any], tag: str) -> bool:
    """Return whether the run, or its deployment, has the tag. Raises PrefectApiError."""
    if tag in run["tags"]:
        return True
    deployment = api.get(f"/deployments/{run['deployment_id']}") if run.get("deployment_id") else None
    return deployment is not None and tag in deployment["tags"]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **API_ARGUMENTS,
            "before": {"type": "str", "required": True},
            "alive": {"type": "list", "elements": "str", "required": True},
            "silent_workers": {"type": "list", "elements": "str", "default": []},
            "rerun_tag": {"type": "str", "default": "rerun-when-lost"},
        },
        supports_check_mode=True,
    )
    api, parameters = PrefectApi.from_parameters(module.params), module.params
    crashed, rescheduled, left = [], [], []
    sentence = (
        f"It was under way when the backup of {parameters['before']} was made, from which the server was restored, and "
        "no worker has it any more: it may have ended in between."
    )
    try:
        for run in under_way(api, when(parameters["before"])):
            if is_left(run, parameters["alive"], parameters["silent_workers"]):
                left.append(run["name"])
                continue
            again = bool(run.get("deployment_id")) and is_rerun(api, run, parameters["rerun_tag"])
            (rescheduled if again else crashed).append(run["name"])
            if module.check_mode:
                continue
            state: dict[str, Any] = {"type": "CRASHED", "name": "Crashed", "message": sentence}
            if again:
                state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": f"{sentence} It is run again."}
            api.request("POST", f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
    except PrefectApiError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(crashed or rescheduled),
        crashed=sorted(crashed),
        rescheduled=sorted(rescheduled),
        left=sorted(left),
    )


if __name__ == "__main__":
    main()
