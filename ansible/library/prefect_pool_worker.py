#!/usr/bin/python
"""Ansible module: a worker's entry in the work pools of a Prefect server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_pool_worker
short_description: Remove a worker's entries from work pools
description:
  - The server remembers every worker that ever asked for work. This removes the entries of one that will not come back.
options:
  name:
    description: Name of the worker.
    type: str
    required: true
  keep_pools:
    description: Work pools in which its entry stays.
    type: list
    elements: str
    default: []
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
    details: A server that does not answer counts as one that has no entries yet.
author: pag
"""

EXAMPLES = r"""
- name: Forget the worker
  prefect_pool_worker:
    name: node-1
    api_url: https://server:4200/api
    api_auth: "{{ prefect_basic_auth_key }}"
"""

RETURN = r"""
removed:
  description: The work pools that had an entry.
  type: list
  returned: always
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.prefect_api import API_ARGUMENTS, PrefectApi, PrefectApiError, PrefectUnreachableError, quoted

# The most that the API returns at once.
_PAGE = 200


def pools_of(api: PrefectApi, worker: str) -> list[str]:
    """Return the names of the pools that know *worker*. Raises PrefectApiError."""
    pools: list[str] = []
    while True:
        page = api.request("POST", "/work_pools/filter", {"limit": _PAGE, "offset": len(pools)})
        pools += [entry["name"] for entry in page]
        if len(page) < _PAGE:
            break
    return [pool for pool in pools if _knows(api, pool, worker)]


def _knows(api: PrefectApi, pool: str, worker: str) -> bool:
    offset = 0
    while True:
        body = {"limit": _PAGE, "offset": offset}
        page = api.request("POST", f"/work_pools/{quoted(pool)}/workers/filter", body)
        if any(entry["name"] == worker for entry in page):
            return True
        if len(page) < _PAGE:
            return False
        offset += len(page)


def run(module: AnsibleModule) -> dict[str, Any]:
    """Remove the entries. Returns the module's result; raises PrefectApiError."""
    worker, keep = module.params["name"], module.params["keep_pools"]
    api = PrefectApi.from_parameters(module.params)
    try:
        removed = [pool for pool in pools_of(api, worker) if pool not in keep]
    except PrefectUnreachableError:
        if not module.check_mode:
            raise
        removed = []
    if not module.check_mode:
        for pool in removed:
            api.request("DELETE", f"/work_pools/{quoted(pool)}/workers/{quoted(worker)}")
    return {"changed": bool(removed), "removed": removed}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "keep_pools": {"type": "list", "elements": "str", "default": []},
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
