#!/usr/bin/python
"""Ansible module: what a Prefect server is and has."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_server_info
short_description: Ask a Prefect server for its version and work pools
description:
  - Fails, in a sentence, when the server does not answer or refuses the login.
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
attributes:
  check_mode:
    support: full
author: pag
"""

EXAMPLES = r"""
- name: Ask the server
  prefect_server_info:
    api_url: https://server:4200/api
    api_auth: "{{ prefect_basic_auth_key }}"
"""

RETURN = r"""
version:
  description: Version of Prefect that the server runs.
  type: str
  returned: always
work_pools:
  description: Names of the work pools.
  type: list
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.prefect_api import API_ARGUMENTS, PrefectApi, PrefectApiError

# The most that the API returns at once.
_PAGE = 200


def work_pools(api: PrefectApi) -> list[str]:
    """Return the names of all work pools. Raises PrefectApiError."""
    names: list[str] = []
    while True:
        page = api.request("POST", "/work_pools/filter", {"limit": _PAGE, "offset": len(names)})
        names += [pool["name"] for pool in page]
        if len(page) < _PAGE:
            return sorted(names)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={**API_ARGUMENTS}, supports_check_mode=True)
    api = PrefectApi.from_parameters(module.params)
    try:
        module.exit_json(changed=False, version=api.request("GET", "/admin/version"), work_pools=work_pools(api))
    except PrefectApiError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
