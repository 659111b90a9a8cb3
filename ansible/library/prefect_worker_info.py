#!/usr/bin/python
"""Ansible module: whether a node's workers serve their work pools."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_worker_info
short_description: Ask, or wait until, a node's workers serve their work pools
description:
  - Asks the server when it last heard of the workers, and, with O(environment), waits until it hears of them again and
    their processes run in that environment. Changes nothing.
  - A worker that is drained, or that the node does not have, is passed over.
options:
  name:
    description: Name of the workers, which is the node's in the inventory.
    type: str
    required: true
  pools:
    description: Work pool by the name of the worker's service.
    type: dict
    required: true
  environment:
    description: Directory of the environment that the workers shall run in. Left out, nothing is waited for.
    type: path
  newer_than:
    description: What this module returned as RV(workers) before. Only a later sign of life counts.
    type: dict
    default: {}
  seconds:
    description: How long to wait.
    type: int
    default: 60
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
    support: none
author: pag
"""

EXAMPLES = r"""
- name: Wait until the worker is back
  prefect_worker_info:
    name: pag-worker-1
    pools: {prefect-worker-cpu.service: cpu-pool}
    environment: /opt/prefect/envs/prefect-0123456789ab
    api_url: https://server:4200/api
    api_auth: "{{ prefect_basic_auth_key }}"
"""

RETURN = r"""
workers:
  description: When the server last heard of each worker, by the name of its service; none when it never did.
  type: dict
  returned: success
"""

import re
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.prefect_api import API_ARGUMENTS, PrefectApi, PrefectApiError, quoted
from ansible.module_utils.process_environment import environment_of

_PAUSE_SECONDS = 1.0
# The most that the API returns at once.
_PAGE = 200


def heard_of(api: PrefectApi, pool: str, name: str) -> dict[str, Any]:
    """Return what the server knows of a worker, an empty dictionary when nothing. Raises PrefectApiError."""
    offset = 0
    while True:
        path = f"/work_pools/{quoted(pool)}/workers/filter"
        workers = api.request("POST", path, {"limit": _PAGE, "offset": offset})
        for worker in workers:
            if worker["name"] == name:
                return dict(worker)
        if len(workers) < _PAGE:
            return {}
        offset += _PAGE


def missing(worker: dict[str, Any], before: str | None, running: str, environment: str) -> str | None:
    """Return what a worker lacks to be back in *environment*, None when it is.

    *running* is the environment that its process runs in, *before* its last heartbeat before.
    """
    if running != environment:
        return f"it does not run in {environment}"
    if worker.get("last_heartbeat_time") in (None, before):
        return "the server has not heard of it since"
    return None if worker.get("status") == "ONLINE" else f"the server has it as {worker.get('status')}"


def kind_of(unit: str) -> str:
    """Return the kind of worker that a service is: cpu or gpu."""
    match = re.fullmatch(r"prefect-worker-(\w+)\.service", unit)
    return match[1] if match else unit


def process_of(module: AnsibleModule, unit: str) -> Path | None:
    """Return the directory in /proc of the service's process, one that is not there when it has none.

    None when there is no such service.
    """
    _, output, _ = module.run_command(["systemctl", "show", "--property=LoadState,MainPID", "--", unit], check_rc=True)
    properties = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    return None if properties["LoadState"] == "not-found" else Path("/proc") / properties["MainPID"]


def run(module: AnsibleModule) -> dict[str, Any]:
    """Ask, and wait; return the module's result. Raises PrefectApiError, also when the time is over."""
    parameters = module.params
    api = PrefectApi.from_parameters(parameters)
    deadline = time.monotonic() + parameters["seconds"]
    workers = {}
    for unit, pool in parameters["pools"].items():
        if process_of(module, unit) is None or Path(f"/etc/prefect/worker-{kind_of(unit)}.drained").exists():
            continue
        while True:
            worker = heard_of(api, pool, parameters["name"])
            lacks = None
            if parameters["environment"]:
                wanted = Path(parameters["environment"])
                running = environment_of(process_of(module, unit) or Path("/proc/0"), wanted.parent)
                lacks = missing(worker, parameters["newer_than"].get(unit), running, wanted.name)
            if lacks is None:
                break
            if time.monotonic() > deadline:
                raise PrefectApiError(
                    f"{unit} on {parameters['name']} is not back after {parameters['seconds']} s ({lacks}): look at "
                    "its journal."
                )
            time.sleep(_PAUSE_SECONDS)
        workers[unit] = worker.get("last_heartbeat_time")
    return {"changed": False, "workers": workers}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "pools": {"type": "dict", "required": True},
            "environment": {"type": "path"},
            "newer_than": {"type": "dict", "default": {}},
            "seconds": {"type": "int", "default": 60},
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
