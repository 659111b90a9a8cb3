#!/usr/bin/python
"""Ansible module: the status of a cluster, judged, for people and for machines."""

from __future__ import annotations

DOCUMENTATION = r"""
module: status_report
short_description: Judge what nodes and server said of themselves
description:
  - Makes one document of it, with the problems first, and one screen of text. Changes nothing.
options:
  nodes:
    description: >-
      One entry for each node of the inventory: name, server (whether it is the server), workers (kinds), pools (by
      kind), reachable, reason, and state, what M(node_status) returned as node.
    type: list
    elements: dict
    required: true
  prefect:
    description: What M(prefect_status) returned as prefect. Without it, the server was not asked.
    type: dict
  root:
    description: Where the bundle is installed on the controller.
    type: path
    required: true
  limits:
    description: >-
      From where on something is a problem: disk_free_percent, memory_available_percent, clock_seconds, backup_seconds,
      certificate_seconds.
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
author: pag
"""

EXAMPLES = r"""
- name: Judge
  status_report:
    nodes: "{{ nodes }}"
    prefect: "{{ answer.prefect }}"
    root: /opt/pag
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
status:
  description: The document, as roles/status/files/status.schema.json describes it.
  type: dict
  returned: always
screen:
  description: The same as text of at most 110 columns.
  type: str
  returned: always
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.cluster_health import Limits, assess, assess_upgrade, lost_runs
from ansible.module_utils.node_files import upgrade_state
from ansible.module_utils.status_screen import screen

FORMAT_VERSION = 1


def read_bundle(root: Path) -> dict[str, Any] | None:
    """Return version and digest of the installed bundle, its base environments' digests and the deployments on record.

    None when there is no bundle at *root*.
    """
    path = root / "manifest.json"
    try:
        content = path.read_bytes()
        manifest = json.loads(content)
    except (OSError, ValueError):
        return None
    environments = [entry for entry in manifest.get("environments", []) if entry.get("name") == "prefect"]
    return {
        "version": str(manifest.get("bundle_version", "")),
        "digest": hashlib.sha256(content).hexdigest(),
        "environments": sorted({str(entry.get("digest", ""))[:12] for entry in environments}),
        # Since flows have versions, the current one's record is a level deeper.
        "deployments": len({path.relative_to(root).parts[1:3] for path in (root / "flows").glob("*/*/**/record.json")}),
    }


def document(
    nodes: list[dict[str, Any]],
    prefect: dict[str, Any] | None,
    bundle: dict[str, Any] | None,
    limits: Limits,
    upgrade: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return the status as one document; problems and notices in it are judged by *limits*.

    *upgrade* is what the controller has on record of the last upgrade.
    """
    findings = assess(nodes, prefect, bundle, limits)
    assess_upgrade(upgrade, findings)
    return {
        "format_version": FORMAT_VERSION,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "well": not findings.problems,
        "problems": findings.problems,
        "notices": findings.notices,
        "bundle": bundle,
        "upgrade": upgrade,
        "prefect": prefect and prefect | ({"lost": lost_runs(nodes, prefect)} if prefect["answers"] else {}),
        "nodes": [
            {
                **{key: node[key] for key in ("name", "server", "workers", "reachable", "reason")},
                **(node["state"] if node["reachable"] else {}),
            }
            for node in nodes
        ],
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "nodes": {"type": "list", "elements": "dict", "required": True},
            "prefect": {"type": "dict"},
            "root": {"type": "path", "required": True},
            "limits": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    limits = Limits(**{name: float(value) for name, value in module.params["limits"].items()})
    nodes = module.params["nodes"]
    root = Path(module.params["root"])
    status = document(nodes, module.params["prefect"], read_bundle(root), limits, upgrade_state(root / "upgrade"))
    module.exit_json(changed=False, status=status, screen=screen(status, nodes))


if __name__ == "__main__":
    main()
