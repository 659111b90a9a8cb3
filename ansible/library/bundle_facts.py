#!/usr/bin/python
"""Ansible module: what the bundle that is installed on the controller holds."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: bundle_facts
short_description: Tell what the bundle on the controller holds
description:
  - Reads the manifest of the bundle that C(install-pag-controller.sh) installed. Runs on the controller.
options:
  root:
    description: Where the bundle is installed.
    type: path
    required: true
  playbooks:
    description: The directory of the playbooks. Where a manifest lies beside it, its digest is returned as well.
    type: path
    required: true
attributes:
  check_mode:
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Read the bundle's manifest
  bundle_facts:
    root: /opt/pag
    playbooks: "{{ playbook_dir }}"
"""

RETURN = r"""
ansible_facts:
  description: Facts about the bundle.
  returned: success
  type: complex
  contains:
    pag_bundle:
      description: >-
          version, digest (SHA-256 of the manifest), interpreter, targets (names), environments (each with name, target,
          path on the controller, digest, interpreter, flow, prefect_version), toolkits (directory name by target), and
          playbooks_digest and playbooks_version of the manifest beside the playbooks (null where there is none).
      type: dict
"""

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule


class BundleError(Exception):
    """The bundle cannot be used; the message is one sentence for the operator."""


def read_bundle(root: Path, playbooks: Path) -> dict[str, Any]:
    """Return the facts about the bundle at *root*; raise BundleError when there is none, or one of another format."""
    # The manifest has one reader, which the bundle installed beside the packages.
    # Compiled modules that root left there would outlive the next bundle's.
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(root))
    try:
        from airgap.environment import Environment
        from airgap.errors import ManifestError
        from airgap.manifest import MANIFEST_NAME, Manifest
        from airgap.toolkit import toolkit_digest

        path = root / MANIFEST_NAME
        manifest = Manifest.from_file(path)
        beside = playbooks.parent / MANIFEST_NAME
        playbooks_manifest = Manifest.from_file(beside) if beside.is_file() else None
        toolkits = {
            environment.target: toolkit_digest(Environment.from_file(root / environment.path), root / "airgap")[:12]
            for environment in manifest.environments
            if environment.name == "toolkit"
        }
    except (ImportError, OSError) as error:
        raise BundleError(f"There is no bundle below {root} ({error}): run install-pag-controller.sh.") from error
    except ManifestError as error:
        raise BundleError(str(error)) from error
    return {
        "version": manifest.bundle_version,
        "digest": _digest(path),
        "interpreter": manifest.interpreter,
        "targets": [target.name for target in manifest.targets],
        "environments": [
            dataclasses.asdict(environment) | {"path": str(root / environment.path)}
            for environment in manifest.environments
        ],
        "toolkits": toolkits,
        "playbooks_version": playbooks_manifest.bundle_version if playbooks_manifest else None,
        "playbooks_digest": _digest(beside) if playbooks_manifest else None,
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "playbooks": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        facts = read_bundle(Path(module.params["root"]), Path(module.params["playbooks"]))
    except BundleError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, ansible_facts={"pag_bundle": facts})


if __name__ == "__main__":
    main()
