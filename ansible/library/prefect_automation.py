#!/usr/bin/python
"""Ansible module: an automation of a Prefect server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_automation
short_description: Create, change or delete an automation, by its name
description:
  - Asks the server for the automation, compares what is given with what is there, and sends it only when it differs.
  - Prefect itself lets several automations have one name; of those that have this one, the oldest is kept.
  - Whether an automation is switched on is left as it is, once it is there.
options:
  name:
    description: Name of the automation.
    type: str
    required: true
  description:
    description: What it is for.
    type: str
    default: ''
  trigger:
    description: When it acts, as the API names it. What is not given is as the server sets it.
    type: dict
  actions:
    description: What it does, as the API names it.
    type: list
    elements: dict
  state:
    description: Whether the automation is there.
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
    details: A server that does not answer counts as one that has no automations yet.
  diff_mode:
    support: full
author: pag
"""

EXAMPLES = r"""
- name: Cancel what waits too long
  prefect_automation:
    name: Cancel late runs
    trigger:
      type: event
      posture: Reactive
      expect: [prefect.flow-run.Late]
      match: {prefect.resource.id: prefect.flow-run.*}
    actions:
      - type: cancel-flow-run
    api_url: http://127.0.0.1:4201/api
    api_auth: "{{ prefect_basic_auth_key }}"
"""

RETURN = r"""
id:
  description: The automation's identifier; empty when there is none.
  type: str
  returned: always
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.prefect_api import API_ARGUMENTS, PrefectApi, PrefectApiError, PrefectUnreachableError


def agrees(wanted: Any, found: Any) -> bool:
    """Whether *found* has all that is *wanted*; what it has beside that, the server has added.

    The order of strings in a list says nothing, and a single string is a list of one, as for the server.
    """
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(agrees(value, found.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list) and any(isinstance(value, dict) for value in wanted):
        same_length = isinstance(found, list) and len(wanted) == len(found)
        return same_length and all(map(agrees, wanted, found))
    if isinstance(wanted, list) or isinstance(found, list):
        return sorted(_listed(wanted)) == sorted(_listed(found))
    if isinstance(wanted, bool) or isinstance(found, bool) or not isinstance(wanted, (int, float)):
        return bool(wanted == found)
    return isinstance(found, (int, float)) and float(wanted) == float(found)


def _listed(value: Any) -> list[str]:
    return [str(entry) for entry in value] if isinstance(value, list) else [str(value)]


def run(module: AnsibleModule) -> dict[str, Any]:
    """Compare the automation with what is wanted and make it so. Returns the result; raises PrefectApiError."""
    parameters = module.params
    name = parameters["name"]
    api = PrefectApi.from_parameters(parameters)
    query = {"automations": {"name": {"any_": [name]}}, "sort": "CREATED_DESC", "limit": 200}
    try:
        found = list(reversed(api.request("POST", "/automations/filter", query)))
    except PrefectUnreachableError:
        if not module.check_mode:
            raise
        found = []
    present = parameters["state"] == "present"
    kept, superfluous = (found[:1], found[1:]) if present else ([], found)
    if not module.check_mode:
        for automation in superfluous:
            api.request("DELETE", f"/automations/{automation['id']}")
    changed, identifier, diff = bool(superfluous), "", {}
    if present:
        wanted = {key: parameters[key] for key in ("name", "description", "trigger", "actions")}
        identifier = kept[0]["id"] if kept else ""
        if not kept or not agrees(wanted, kept[0]):
            changed = True
            before = {key: kept[0][key] for key in wanted} if kept else {}
            diff = {"before": before, "after": wanted}
            if not module.check_mode and kept:
                # Prefect's PATCH knows nothing but whether the automation is switched on.
                api.request("PUT", f"/automations/{identifier}", {**wanted, "enabled": kept[0]["enabled"]})
            elif not module.check_mode:
                identifier = api.request("POST", "/automations/", wanted)["id"]
    return {"changed": changed, "id": identifier, "diff": diff}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "description": {"type": "str", "default": ""},
            "trigger": {"type": "dict"},
            "actions": {"type": "list", "elements": "dict"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            **API_ARGUMENTS,
        },
        required_if=[("state", "present", ("trigger", "actions"))],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except PrefectApiError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
