#!/usr/bin/python
"""Ansible module: which installed files are not those that the controller's packages hold."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: audit_node
short_description: Compare what is installed with what the controller's packages hold
description:
  - Compares every file of the environments, of flows' code and of Debian packages. Reads only.
  - What belongs there comes from the controller, where C(airgap.audit) worked it out; of the node's own records only
    dpkg's MD5 sums are used, for packages that no bundle brought.
options:
  expected:
    description: What C(airgap.audit) wrote (JSON, compressed, in base64).
    type: str
    required: true
  environments:
    description: Directory of the environments.
    type: path
    required: true
  flows:
    description: Directory of the flows' code. Left out, it is not audited.
    type: path
attributes:
  check_mode:
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Compare
  audit_node:
    expected: "{{ lookup('ansible.builtin.file', '/tmp/expected') }}"
    environments: /opt/prefect/envs
    flows: /opt/prefect/flows
"""

RETURN = r"""
findings:
  description: Each file that differs, with path, what (changed, missing, unexpected, unaudited) and reason.
  type: list
  elements: dict
  returned: success
configuration:
  description: Configuration files of Debian packages that were changed. They are no findings.
  type: list
  elements: str
  returned: success
environments:
  description: How many environments were compared.
  type: int
  returned: success
packages:
  description: How many Debian packages were compared.
  type: int
  returned: success
carried:
  description: How many of these were compared with a package of the mirror.
  type: int
  returned: success
files:
  description: How many files were compared.
  type: int
  returned: success
seconds:
  description: How long it took.
  type: float
  returned: success
"""

import base64
import binascii
import dataclasses
import json
import time
import zlib
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.audit_dpkg import audit_packages
from ansible.module_utils.audit_environment import Auditor

FORMAT_VERSION = 1


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            # No secret; it would fill the node's journal.
            "expected": {"type": "str", "required": True, "no_log": True},
            "environments": {"type": "path", "required": True},
            "flows": {"type": "path"},
        },
        supports_check_mode=True,
    )
    started = time.monotonic()
    try:
        document = json.loads(zlib.decompress(base64.b64decode(module.params["expected"])))
        if document["format_version"] != FORMAT_VERSION:
            module.fail_json(msg="The list of files is of another version: run install-pag-controller.sh again.")
    except (ValueError, KeyError, TypeError, zlib.error, binascii.Error) as error:
        module.fail_json(msg=f"The list of files cannot be read ({error}): start the audit again.")
    auditor = Auditor(document)
    auditor.audit_environments(Path(module.params["environments"]))
    auditor.audit_links()
    if module.params["flows"]:
        auditor.audit_flows(Path(module.params["flows"]))
    debian = audit_packages(document["debian"])
    module.exit_json(
        changed=False,
        findings=[dataclasses.asdict(finding) for finding in sorted({*auditor.findings, *debian.findings})],
        configuration=sorted(debian.configuration),
        environments=auditor.environments,
        packages=debian.packages,
        carried=debian.carried,
        files=auditor.files + debian.files,
        seconds=round(time.monotonic() - started, 1),
    )


if __name__ == "__main__":
    main()
