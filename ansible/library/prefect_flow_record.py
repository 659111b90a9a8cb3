#!/usr/bin/python
"""Ansible module: keep a version of a deployed flow in the controller's registry."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_flow_record
short_description: Keep a version of a deployed flow, for going back and for workers that join later
description:
  - Keeps C(<registry>/<flow>/<deployment>/versions/<version>/) with C(record.json), C(code/) and the descriptions of
    the flow's environments, and the link C(current). See C(module_utils/flow_registry.py).
  - With O(state=next), before the server is told, so that a worker that joins meanwhile gets what either may want; with
    O(state=current), afterwards.
options:
  registry:
    description: Directory of the registry.
    type: path
    required: true
  flow:
    description: What M(prefect_flow_source) returned as flow.
    type: dict
    required: true
  version:
    description: The version that the nodes have. It must be the one that follows from O(flow) and O(descriptions).
    type: str
    required: true
  descriptions:
    description: Paths of the descriptions of the flow's environments, by target.
    type: dict
    required: true
  packs:
    description: SHA-256 of the packed environments that the flow directory has, by file name.
    type: dict
  state:
    description: Whether the server is going to be told of this version, or was.
    type: str
    choices: [next, current]
    required: true
  deployed:
    description: With O(state=current), what M(prefect_deployment) returned for each of the flow's deployments.
    type: list
    elements: dict
attributes:
  check_mode:
    support: full
author: pag
"""

EXAMPLES = r"""
- name: Keep the version
  prefect_flow_record:
    registry: /opt/pag/flows
    flow: "{{ source.flow }}"
    version: 0123456789ab
    descriptions: {debian-12-x86_64: /opt/pag/environments/demo2.debian-12-x86_64.json}
    state: current
    deployed: "{{ deployed.results }}"
"""

RETURN = r"""
recorded:
  description: Names of the deployments of which something was written.
  type: list
  returned: always
"""

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.flow_registry import (
    CURRENT,
    FORMAT_VERSION,
    NEXT,
    RECORD,
    KeptDeployment,
    Record,
    Registry,
    RegistryError,
    discard,
    leftovers,
    listing,
    point,
    read,
    store,
    version_of,
    write_record,
)

# What is known only when the server has been told.
_LATER = ("deployed", "full_name", "settings")


def records(flow: dict[str, Any], descriptions: dict[str, str], packs: dict[str, str]) -> dict[str, Record]:
    """Return the record of each of the flow's deployments, by name, as far as it is known beforehand."""
    environments = {
        target: json.loads(Path(path).read_text(encoding="utf-8")) for target, path in sorted(descriptions.items())
    }
    digests = {target: environment["digest"] for target, environment in environments.items()}
    directory = Path(flow["directory"])
    return {
        deployment["name"]: {
            "format_version": FORMAT_VERSION,
            "flow": flow["name"],
            "deployment": deployment["name"],
            "work_pool": deployment["work_pool"],
            "entrypoint": deployment["entrypoint"],
            "version": version_of(listing(flow["digest"], digests)),
            "digest": flow["digest"],
            "files": flow["files"],
            "size": sum((directory / name).stat().st_size for name in flow["files"]),
            "asked": deployment,
            "packs": packs,
            "environments": {
                target: {
                    "description": Path(descriptions[target]).name,
                    "directory": f"{environment['name']}-{environment['digest'][:12]}",
                    "digest": environment["digest"],
                }
                for target, environment in environments.items()
            },
        }
        for deployment in flow["deployments"]
    }


def foreseen(record: Record) -> Record:
    """Return the part of a record that is known before the server has been told."""
    return {key: value for key, value in record.items() if key not in _LATER}


def kept_record(deployment: KeptDeployment, version: str) -> Record | None:
    """Return the record of a version of *deployment*, None when there is no usable one."""
    try:
        return read(deployment.directory / "versions" / version).record
    except RegistryError:
        return None


def prepare(
    deployment: KeptDeployment, record: Record, source: Path, descriptions: dict[str, str], *, check: bool
) -> bool:
    """Keep the version before the server is told of it; return whether something was, or would be, written."""
    kept = kept_record(deployment, record["version"])
    stored = kept is not None and {key: kept[key] for key in ("digest", "environments", "files")} == {
        key: record[key] for key in ("digest", "environments", "files")
    }
    known = record["version"] in (deployment.linked(CURRENT), deployment.linked(NEXT))
    if stored and known:
        return False
    if not check:
        for leftover in leftovers(deployment.directory / "versions"):
            discard([leftover])
        if not stored:
            store(deployment, record, source, [Path(path) for path in descriptions.values()])
        if not known:
            point(deployment, NEXT, record["version"])
    return True


def finish(deployment: KeptDeployment, record: Record, result: dict[str, Any], *, check: bool) -> bool:
    """Say that the server runs the version; return whether something was, or would be, written."""
    later = {"full_name": result["full_name"], "settings": result.get("settings")}
    kept = kept_record(deployment, record["version"])
    if check and kept is not None and not result["changed"]:
        # Nothing was sent, so nothing was read back.
        later["settings"] = kept.get("settings")
    current = deployment.linked(CURRENT) == record["version"]
    old_form = (deployment.directory / RECORD).is_file()
    if current and kept is not None and kept == record | later | {"deployed": kept.get("deployed")}:
        if deployment.linked(NEXT) is None and not old_form:
            return False
        deployed = kept["deployed"]
    else:
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        deployed = kept["deployed"] if current and kept is not None else now
    if not check:
        write_record(deployment.directory / "versions" / record["version"], record | later | {"deployed": deployed})
        point(deployment, CURRENT, record["version"])
        (deployment.directory / NEXT).unlink(missing_ok=True)
        if old_form:
            drop_old_form(deployment.directory)
    return True


def drop_old_form(directory: Path) -> None:
    """Remove the one record of an earlier release, which the version that is current now takes the place of."""
    (directory / RECORD).unlink()
    discard([directory / "code"])
    for path in directory.glob("*.json"):
        path.unlink()


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "registry": {"type": "path", "required": True},
            "flow": {"type": "dict", "required": True},
            "version": {"type": "str", "required": True},
            "descriptions": {"type": "dict", "required": True},
            "packs": {"type": "dict"},
            "state": {"type": "str", "choices": ["next", "current"], "required": True},
            "deployed": {"type": "list", "elements": "dict"},
        },
        required_if=[("state", "current", ("deployed",))],
        supports_check_mode=True,
    )
    os.umask(0o022)
    flow, descriptions = module.params["flow"], module.params["descriptions"]
    if module.check_mode and not all(Path(path).is_file() for path in descriptions.values()):
        # A pack that was not brought in yet.
        module.exit_json(changed=True, recorded=[deployment["name"] for deployment in flow["deployments"]])
    recorded = []
    try:
        found = records(flow, descriptions, module.params["packs"] or {})
        for index, (name, record) in enumerate(found.items()):
            if record["version"] != module.params["version"]:
                module.fail_json(
                    msg=f"{flow['directory']} was changed while it was deployed ({record['version']} is not "
                    f"{module.params['version']}): deploy it again."
                )
            deployment = Registry(Path(module.params["registry"])).deployment(flow["name"], name)
            if module.params["state"] == "next":
                source = Path(flow["directory"])
                changed = prepare(deployment, record, source, descriptions, check=module.check_mode)
            else:
                changed = finish(deployment, record, module.params["deployed"][index], check=module.check_mode)
            if changed:
                recorded.append(name)
    except OSError as error:
        module.fail_json(
            msg=f"The flow could not be recorded on the controller ({error}): make room, and deploy again."
        )
    module.exit_json(changed=bool(recorded), recorded=recorded)


if __name__ == "__main__":
    main()
