#!/usr/bin/python
"""Ansible module: the controller's registry of deployed flows."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_flow_record
short_description: Record a deployed flow with its code, for workers that join later
description:
  - Keeps C(<registry>/<flow>/<deployment>/) with C(record.json), C(code/) and the descriptions of the flow's
    environments. A record is replaced as a whole.
options:
  registry:
    description: Directory of the registry.
    type: path
    required: true
  flow:
    description: What M(prefect_flow_source) returned as flow.
    type: dict
    required: true
  descriptions:
    description: Paths of the descriptions of the flow's environments, by target.
    type: dict
    required: true
attributes:
  check_mode:
    support: full
author: pag
"""

EXAMPLES = r"""
- name: Record the flow
  prefect_flow_record:
    registry: /opt/pag/flows
    flow: "{{ source.flow }}"
    descriptions: {debian-12-x86_64: /opt/pag/environments/demo2.debian-12-x86_64.json}
"""

RETURN = r"""
recorded:
  description: Names of the deployments whose records were written.
  type: list
  returned: always
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

FORMAT_VERSION = 1


def records(flow: dict[str, Any], descriptions: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return the record of each of the flow's deployments, by name."""
    environments = {
        target: json.loads(Path(path).read_text(encoding="utf-8")) for target, path in sorted(descriptions.items())
    }
    return {
        deployment["name"]: {
            "format_version": FORMAT_VERSION,
            "flow": flow["name"],
            "deployment": deployment["name"],
            "work_pool": deployment["work_pool"],
            "entrypoint": deployment["entrypoint"],
            "digest": flow["digest"],
            "files": flow["files"],
            "environments": {
                target: {
                    "description": Path(descriptions[target]).name,
                    "directory": f"{environment['name']}-{environment['digest'][:12]}",
                }
                for target, environment in environments.items()
            },
        }
        for deployment in flow["deployments"]
    }


def current(directory: Path) -> dict[str, Any] | None:
    """Return the record in *directory*, None when there is no usable one."""
    try:
        found: dict[str, Any] = json.loads((directory / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def write(directory: Path, record: dict[str, Any], source: Path, descriptions: dict[str, str]) -> None:
    """Write a record beside *directory* and put it in its place."""
    directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        for name in record["files"]:
            target = new / "code" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target)
        for path in descriptions.values():
            shutil.copyfile(path, new / Path(path).name)
        (new / "record.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        new.chmod(0o755)
        old = new.with_name(f"{new.name}.old")
        if directory.exists():
            directory.rename(old)
        new.rename(directory)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "registry": {"type": "path", "required": True},
            "flow": {"type": "dict", "required": True},
            "descriptions": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    flow, descriptions = module.params["flow"], module.params["descriptions"]
    if module.check_mode and not all(Path(path).is_file() for path in descriptions.values()):
        # A pack that was not brought in yet.
        module.exit_json(changed=True, recorded=[deployment["name"] for deployment in flow["deployments"]])
    recorded = []
    try:
        for name, record in records(flow, descriptions).items():
            directory = Path(module.params["registry"]) / flow["name"] / name
            if current(directory) != record:
                recorded.append(name)
                if not module.check_mode:
                    write(directory, record, Path(flow["directory"]), descriptions)
    except OSError as error:
        module.fail_json(
            msg=f"The flow could not be recorded on the controller ({error}): make room, and deploy again."
        )
    module.exit_json(changed=bool(recorded), recorded=recorded)


if __name__ == "__main__":
    main()
