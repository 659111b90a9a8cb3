#!/usr/bin/python
"""Ansible module: a global concurrency limit of a Prefect server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_concurrency_limit
short_description: Create, change or delete global concurrency limits
description:
  - Asks the server for each limit, compares, and sends only what differs.
options:
  names:
    description: Names of the limits.
    type: list
    elements: str
    required: true
  limit:
    description: How many slots each has.
    type: int
    default: 1
  prune:
    description: Delete limits whose names match this regular expression, wholly, and are not in O(names).
    type: str
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
    details: A server that does not answer counts as one that has no limits yet.
  diff_mode:
    support: full
author: pag
"""

EXAMPLES = r"""
- name: Have one slot for each GPU
  prefect_concurrency_limit:
    names: [gpu-node-1-0, gpu-node-1-1]
    prune: gpu-node-1-[0-9]+
    api_url: https://server:4200/api
    api_auth: "{{ prefect_basic_auth_key }}"
"""

RETURN = r"""
created:
  description: Names of the limits that were not there.
  type: list
  returned: always
updated:
  description: Names of the limits that had another number of slots.
  type: list
  returned: always
deleted:
  description: Names of the limits that were there and not wanted.
  type: list
  returned: always
"""

import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.prefect_api import API_ARGUMENTS, PrefectApi, PrefectApiError, PrefectUnreachableError, quoted

# The most that the API returns at once.
_PAGE = 200


def existing_limits(api: PrefectApi) -> dict[str, int]:
    """Return all global concurrency limits: name and number of slots. Raises PrefectApiError."""
    limits: dict[str, int] = {}
    while True:
        page = api.request("POST", "/v2/concurrency_limits/filter", {"limit": _PAGE, "offset": len(limits)})
        limits |= {entry["name"]: entry["limit"] for entry in page}
        if len(page) < _PAGE:
            return limits


def run(module: AnsibleModule) -> dict[str, Any]:
    """Compare the limits with what is wanted and make it so. Returns the module's result; raises PrefectApiError."""
    names, limit, prune = module.params["names"], module.params["limit"], module.params["prune"]
    api = PrefectApi.from_parameters(module.params)
    try:
        found = existing_limits(api)
    except PrefectUnreachableError:
        if not module.check_mode:
            raise
        found = {}
    created = [name for name in names if name not in found]
    updated = [name for name in names if name in found and found[name] != limit]
    deleted = [name for name in sorted(found) if prune and name not in names and re.fullmatch(prune, name)]
    if not module.check_mode:
        for name in created:
            api.request("POST", "/v2/concurrency_limits/", {"name": name, "limit": limit})
        for name in updated:
            api.request("PATCH", f"/v2/concurrency_limits/{quoted(name)}", {"limit": limit})
        for name in deleted:
            api.request("DELETE", f"/v2/concurrency_limits/{quoted(name)}")
    before = {name: found[name] for name in updated + deleted}
    return {
        "changed": bool(created or updated or deleted),
        "created": created,
        "updated": updated,
        "deleted": deleted,
        "diff": {"before": before, "after": dict.fromkeys(created + updated, limit)},
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "limit": {"type": "int", "default": 1},
            "prune": {"type": "str"},
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
