#!/usr/bin/python
"""Ansible module: an environment of conda packages and wheels, installed from the mirror on this machine."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: pixi_environment
short_description: Install an environment of conda packages and wheels from the mirror
description:
  - Installs the exact packages that a description names into C(<root>/<name>-<digest>/), without any network.
  - Every file is checked against the description before it is used. An environment is complete or not there, is never
    changed after it is complete, and shares its files with other environments by hard links.
  - The link is switched atomically, and only when the environment is complete.
options:
  description:
    description: Path of the environment's description (C(environments/<name>.<target>.json)) on this machine.
    type: path
    required: true
  mirror:
    description: Directory of the mirror on this machine.
    type: path
    default: /opt/pag/mirror
  root:
    description: Directory that environments are installed in.
    type: path
    default: /opt/prefect/envs
  cache:
    description: Directory of unpacked packages, on the same file system as O(root).
    type: path
    default: /opt/prefect/cache
  link:
    description: Symbolic link to point at the environment. Left out, no link is made.
    type: path
  bytecode:
    description: Whether to compile Python code, once for all environments; programs then start in half the time.
    type: bool
    default: true
  toolkit:
    description: Directory of the toolkit that installs.
    type: path
    default: /opt/pag/toolkit/current
author: pag
attributes:
  check_mode:
    description: Says whether it would install or switch the link.
    support: full
  diff_mode:
    description: Shows the environment and the link's target.
    support: full
"""

EXAMPLES = r"""
- name: Install the base environment
  pixi_environment:
    description: /opt/pag/environments/prefect.debian-12-x86_64.json
    link: /opt/prefect/pixi-env
  register: base_environment
"""

RETURN = r"""
path:
  description: Directory of the environment, with C(env/), C(activate.sh) and C(run). Empty in check mode when the
    description is not on the machine yet.
  type: str
  returned: always
python:
  description: The environment's interpreter.
  type: str
  returned: always
installed:
  description: Whether the environment was installed, or would be.
  type: bool
  returned: always
linked:
  description: Whether the link was switched, or would be.
  type: bool
  returned: always
"""

import json
import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule


def _without_toolkit(module: AnsibleModule) -> dict[str, Any]:
    """Return the outcome that check mode foresees on a machine that has no toolkit or description yet."""
    path = ""
    try:
        document = json.loads(Path(module.params["description"]).read_text(encoding="utf-8"))
        path = f"{module.params['root']}/{document['name']}-{document['digest'][:12]}"
    except (OSError, ValueError, KeyError):
        pass  # not carried over yet, which is what check mode is about
    return {
        "changed": True,
        "path": path,
        "python": f"{path}/env/bin/python" if path else "",
        "installed": True,
        "linked": bool(module.params["link"]),
    }


def _install(module: AnsibleModule) -> dict[str, Any]:
    parameters = module.params
    if not Path(parameters["toolkit"]).is_dir():
        module.fail_json(msg=f"The toolkit {parameters['toolkit']} is not there: run the role common first.")
    command = [sys.executable, "-m", "airgap.install"]
    for option in ("description", "mirror", "root", "cache", "link"):
        if parameters[option]:
            command += [f"--{option}", parameters[option]]
    if not parameters["bytecode"]:
        command.append("--no-bytecode")
    if module.check_mode:
        command.append("--check")
    status, output, errors = module.run_command(
        command,
        environ_update={"PYTHONPATH": parameters["toolkit"], "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
    )
    if status != 0:
        lines = errors.strip().splitlines() or [f"airgap.install ended with status {status}."]
        module.fail_json(msg=lines[-1].removeprefix("error: "), rc=status)
    return dict(json.loads(output))


def _state(path: str, complete: bool, link: str | None, link_target: str | None) -> str:
    lines = [f"{path or 'environment'}: {'installed' if complete else 'absent'}"]
    if link:
        lines.append(f"{link} -> {link_target or 'nothing'}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "description": {"type": "path", "required": True},
            "mirror": {"type": "path", "default": "/opt/pag/mirror"},
            "root": {"type": "path", "default": "/opt/prefect/envs"},
            "cache": {"type": "path", "default": "/opt/prefect/cache"},
            "link": {"type": "path"},
            "bytecode": {"type": "bool", "default": True},
            "toolkit": {"type": "path", "default": "/opt/pag/toolkit/current"},
        },
        supports_check_mode=True,
    )
    link = module.params["link"]
    link_before = str(Path(link).readlink()) if link and Path(link).is_symlink() else None
    ready = Path(module.params["toolkit"]).is_dir() and Path(module.params["description"]).is_file()
    result = _without_toolkit(module) if module.check_mode and not ready else _install(module)
    result["diff"] = {
        "before": _state(result["path"], not result["installed"], link, link_before),
        "after": _state(result["path"], True, link, result["path"]),
    }
    module.exit_json(**result)


if __name__ == "__main__":
    main()
