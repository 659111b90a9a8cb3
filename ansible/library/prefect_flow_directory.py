#!/usr/bin/python
"""Ansible module: which of the flows in a directory are not deployed as they are there."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_flow_directory
short_description: Read a directory of flow directories, and find those that changed
description:
  - Reads every subdirectory that has a C(prefect.yaml) or the entrypoint's file, and compares it with the controller's
    record of what is deployed and with the server's deployments. No node is asked, and nothing is changed.
options:
  flows_dir:
    description: The directory.
    type: path
    required: true
  entrypoint:
    description: File and function of flows without deployments in a C(prefect.yaml).
    type: str
  work_pool:
    description: Work pool; cpu-pool when neither this nor C(prefect.yaml) names one.
    type: str
  work_pools:
    description: The work pools that nodes serve.
    type: list
    elements: str
    required: true
  packed_env:
    description: File with the packed environment, in each flow directory.
    type: str
    default: packed-env.tar
  root:
    description: Where the bundle is installed on the controller.
    type: path
    default: /opt/pag
  registry:
    description: Directory of the registry of deployed flows.
    type: path
    required: true
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
- name: Find the flows that changed
  prefect_flow_directory:
    flows_dir: /home/operator/flows
    entrypoint: main.py:my_workflow
    work_pools: [cpu-pool]
    registry: /opt/pag/flows
    api_url: https://server:4200/api
    api_auth: "{{ prefect_basic_auth_key }}"
"""

RETURN = r"""
flows:
  description: The flows that changed, each as M(prefect_flow_source) returns it.
  type: list
  elements: dict
  returned: success
unchanged:
  description: Names of flows that are deployed as they are in the directory.
  type: list
  elements: str
  returned: success
faults:
  description: Flows that cannot be deployed, with name and msg.
  type: list
  elements: dict
  returned: success
report:
  description: All that in words.
  type: list
  elements: str
  returned: success
"""

import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.deployment_settings import options_of
from ansible.module_utils.flow_environment import read_source
from ansible.module_utils.flow_registry import FORMAT_VERSION, NEXT, Registry, RegistryError
from ansible.module_utils.flow_source import DEFAULT_PACK, FlowSourceError, Request, describes_deployments
from ansible.module_utils.prefect_api import API_ARGUMENTS, PrefectApi, PrefectApiError, quoted

_DEFAULT_FILE = "main.py"


def flow_directories(directory: Path, entrypoint: str | None) -> tuple[list[Path], list[str]]:
    """Return the flow directories in *directory*, and the names of others. Raises FlowSourceError."""
    if not directory.is_dir():
        raise FlowSourceError(f"There is no directory {directory} on the controller: check flows_dir.")
    file = entrypoint.rpartition(":")[0] if entrypoint else _DEFAULT_FILE
    subdirectories = sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = [path for path in subdirectories if (path / "prefect.yaml").is_file() or (path / file).is_file()]
    if not found:
        raise FlowSourceError(f"No subdirectory of {directory} has a prefect.yaml or a {file}: check flows_dir.")
    return found, [path.name for path in subdirectories if path not in found]


def read(directory: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return what a flow directory asks for. Raises FlowSourceError."""
    request = Request(
        flow_dir=directory,
        entrypoint=None if describes_deployments(directory) else parameters["entrypoint"] or None,
        work_pool=parameters["work_pool"] or None,
        packed_env=parameters["packed_env"],
    )
    source = read_source(request, Path(parameters["root"]))
    wanted = {deployment["work_pool"] for deployment in source["flow"]["deployments"]}
    unserved = sorted(wanted - set(parameters["work_pools"]))
    if unserved:
        raise FlowSourceError(
            f"No worker of the inventory serves the work pool {', '.join(unserved)}: use one of "
            f"{', '.join(parameters['work_pools'])}."
        )
    return source


def is_deployed(source: dict[str, Any], registry: Registry, api: PrefectApi) -> bool:
    """Return whether all of a flow's deployments are on record, and on the server, as *source* has them.

    Raises RegistryError, PrefectApiError, OSError.
    """
    flow = source["flow"]
    digests = {
        target: json.loads(Path(path).read_text(encoding="utf-8"))["digest"]
        for target, path in source["descriptions"].items()
    }
    for wanted in flow["deployments"]:
        deployment = registry.deployment(flow["name"], wanted["name"])
        kept = deployment.current()
        if kept is None or deployment.linked(NEXT) or kept.record["format_version"] < FORMAT_VERSION:
            return False
        record = kept.record
        found = {target: entry["digest"] for target, entry in record["environments"].items()}
        if (record["digest"], record["packs"]) != (flow["digest"], source["pack_digests"]):
            return False
        # Records of earlier releases say nothing of job variables: there were none.
        asked = {"job_variables": None} | record["asked"]
        if asked != json.loads(json.dumps(wanted)) or not record.get("settings"):
            return False
        if not source["pack_digests"] and found != digests:
            return False
        flow_name = record["settings"]["flow_name"]
        served = api.get(f"/deployments/name/{quoted(flow_name)}/{quoted(wanted['name'])}")
        if served is None or options_of(served, flow_name) != {"job_variables": {}} | record["settings"]:
            return False
        if not str(served["path"]).endswith(f"/{flow['name']}/{kept.version}"):
            return False
    return True


def run(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the module's result. Raises FlowSourceError, RegistryError, PrefectApiError, OSError."""
    directory = Path(parameters["flows_dir"]).expanduser()
    registry, api = Registry(Path(parameters["registry"])), PrefectApi.from_parameters(parameters)
    found, others = flow_directories(directory, parameters["entrypoint"] or None)
    flows, unchanged, faults = [], [], []
    for path in found:
        try:
            source = read(path, parameters)
        except FlowSourceError as error:
            faults.append({"name": path.name, "msg": f"{path.name}: {error}"})
            continue
        if is_deployed(source, registry, api):
            unchanged.append(path.name)
        else:
            flows.append(source)
    names = [source["flow"]["name"] for source in flows]
    report = [
        f"{len(flows)} of {len(found)} flows changed: {', '.join(names) or 'none'}",
        f"as they were: {', '.join(unchanged) or 'none'}",
    ]
    if others:
        report.append(f"no flows, without prefect.yaml and the entrypoint's file: {', '.join(others)}")
    if faults:
        report.append(f"cannot be deployed: {', '.join(fault['name'] for fault in faults)}")
    return {"changed": False, "flows": flows, "unchanged": unchanged, "faults": faults, "report": report}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "flows_dir": {"type": "path", "required": True},
            "entrypoint": {"type": "str"},
            "work_pool": {"type": "str"},
            "work_pools": {"type": "list", "elements": "str", "required": True},
            "packed_env": {"type": "str", "default": DEFAULT_PACK},
            "root": {"type": "path", "default": "/opt/pag"},
            "registry": {"type": "path", "required": True},
            **API_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params))
    except (FlowSourceError, RegistryError, PrefectApiError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
