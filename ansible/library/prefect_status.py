#!/usr/bin/python
"""Ansible module: how a Prefect server is."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_status
short_description: Say what a Prefect server has to do, and who does it
description:
  - Asks for version, work pools with their workers, runs by state, late runs, runs that stay pending, deployments that
    are not ready, and global limits. Changes nothing.
  - A server that does not answer is a result, not an error.
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
  prefect_status:
    api_url: https://server:4200/api
    api_auth: "{{ prefect_basic_auth_key }}"
"""

RETURN = r"""
prefect:
  description: >-
    url, answers, problem (a sentence where it does not answer or refuses), and if it answers version, pools, runs,
    running, late, stuck, deployments and limits.
  type: dict
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.prefect_api import API_ARGUMENTS, PrefectApi, PrefectApiError
from ansible.module_utils.prefect_state import state


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={**API_ARGUMENTS}, supports_check_mode=True)
    prefect = {"url": module.params["api_url"], "answers": True, "problem": ""}
    try:
        prefect |= state(PrefectApi.from_parameters(module.params))
    except PrefectApiError as error:
        prefect |= {"answers": False, "problem": str(error)}
    module.exit_json(changed=False, prefect=prefect)


if __name__ == "__main__":
    main()
