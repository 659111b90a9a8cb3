#!/usr/bin/python
"""Ansible module: which environments a node's Prefect services run in."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_node_info
short_description: Tell which environments a node's Prefect services run in
description:
  - Looks at the link to the base environment and at the running processes. Changes nothing.
options:
  home:
    description: Home of the service user, with C(envs/) and the link C(pixi-env).
    type: path
    required: true
  units:
    description: Names of the services to look at. One that the node does not have is passed over.
    type: list
    elements: str
    required: true
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: pag
"""

EXAMPLES = r"""
- name: Ask which environments are in use
  prefect_node_info:
    home: /opt/prefect
    units: [prefect-server.service]
  register: __upgrade_node
"""

RETURN = r"""
base:
  description: Name of the directory that the link points at; empty when there is none.
  type: str
  returned: always
versions:
  description: Version of Prefect by the name of the environment's directory, for all base environments on the node.
  type: dict
  returned: always
units:
  description: >-
    For each service that the node has, by name, C(active), and C(environment), the name of the directory of the
    environment that its process runs in; empty when it does not run.
  type: dict
  returned: always
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.process_environment import environment_of

_METADATA = "env/lib/python*/site-packages/prefect-*.dist-info"
_PROPERTIES = ("LoadState", "ActiveState", "MainPID")


def versions(environments: Path, names: str = "prefect-*") -> dict[str, str]:
    """Return Prefect's version in every complete environment below *environments* whose directory matches *names*."""
    found = {}
    for marker in environments.glob(f"{names}/.complete"):
        for metadata in marker.parent.glob(_METADATA):
            found[marker.parent.name] = metadata.name[len("prefect-") : -len(".dist-info")]
    return dict(sorted(found.items()))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "home": {"type": "path", "required": True},
            "units": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    home = Path(module.params["home"])
    environments, link = home / "envs", home / "pixi-env"
    units = {}
    for name in module.params["units"]:
        show = ["systemctl", "show", f"--property={','.join(_PROPERTIES)}", "--", name]
        _, output, _ = module.run_command(show, check_rc=True)
        properties = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
        if properties["LoadState"] != "not-found":
            process = Path("/proc") / properties["MainPID"]
            units[name] = {
                "active": properties["ActiveState"] == "active",
                "environment": environment_of(process, environments) if properties["MainPID"] != "0" else "",
            }
    base = link.readlink().name if link.is_symlink() else ""
    module.exit_json(changed=False, base=base, versions=versions(environments), units=units)


if __name__ == "__main__":
    main()
