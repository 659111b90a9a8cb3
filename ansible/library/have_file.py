#!/usr/bin/python
"""Ansible module: the file that tells what a site has."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: have_file
short_description: Write what the site has, for the builder of the next bundle
description:
  - Hashes every file in the controller's mirror, and writes that with the environments, the deployed flows and the
    nodes' Debian packages as JSON. Host names, addresses and secrets are not in it.
  - With a key, the file is signed (C(ssh-keygen -Y sign)); the signature has its name with C(.sig) at the end.
options:
  path:
    description: The file to write.
    type: path
    required: true
  root:
    description: Where the bundle is installed.
    type: path
    required: true
  nodes:
    description: What M(dpkg_status) returned on each node.
    type: list
    elements: dict
    required: true
  key:
    description: A private key. When there is no such file, nothing is signed, and an older signature is removed.
    type: path
    required: true
attributes:
  check_mode:
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Write what the site has
  have_file:
    path: /home/operator/have.json
    root: /opt/pag
    nodes: "{{ ansible_play_hosts_all | map('extract', hostvars, 'status') }}"
    key: /etc/pag/site_key
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
path:
  description: The file.
  type: str
  returned: success
size:
  description: Its bytes.
  type: int
  returned: success
files:
  description: How many files of the controller it names.
  type: int
  returned: success
signed:
  description: Whether it is, or would be, signed.
  type: bool
  returned: success
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule


class HaveError(Exception):
    """The file cannot be written; the message is one sentence for the operator."""


def contents(root: Path, nodes: list[dict[str, Any]], key: Path) -> tuple[bytes, bytes | None, int]:
    """Return the file, its signature, if there is a key, and how many files it names.

    Raises HaveError when there is no bundle at *root*, its records cannot be read, or the key cannot sign.
    """
    # What knows the site came with the bundle, beside the packages.
    # Compiled modules that root left there would outlive the next bundle's.
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(root))
    try:
        from airgap.errors import AirgapError
        from airgap.have_writer import NodeStatus, describe
        from airgap.signature import HAVE_NAMESPACE, sign
        from airgap.site import Site
    except ImportError as error:
        raise HaveError(f"There is no bundle below {root} ({error}): run install-pag-controller.sh.") from error
    try:
        have = describe(Site(root), [NodeStatus(node["target"], node["packages"]) for node in nodes])
        content = have.to_json().encode()
        signature = sign(content, key, HAVE_NAMESPACE) if key.is_file() else None
    except AirgapError as error:
        raise HaveError(str(error)) from error
    return content, signature, len(have.packages) + len(have.contents)


def differs(path: Path, content: bytes | None) -> bool:
    """Return whether the file at *path* is not the one with *content*; None means that none should be there."""
    return path.read_bytes() != content if path.is_file() else content is not None


def write(module: AnsibleModule, path: Path, content: bytes) -> None:
    """Give the file at *path* that content at once, readable for everybody, and whoever's the directory is."""
    owner = path.parent.stat()
    with tempfile.NamedTemporaryFile(dir=module.tmpdir, delete=False) as stream:
        stream.write(content)
    module.atomic_move(stream.name, str(path))
    module.set_mode_if_different(str(path), 0o644, False)
    module.set_owner_if_different(str(path), owner.st_uid, False)
    module.set_group_if_different(str(path), owner.st_gid, False)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "root": {"type": "path", "required": True},
            "nodes": {"type": "list", "elements": "dict", "required": True},
            "key": {"type": "path", "required": True, "no_log": False},
        },
        supports_check_mode=True,
    )
    path = Path(module.params["path"])
    signature_path = path.with_name(f"{path.name}.sig")
    if not path.parent.is_dir():
        module.fail_json(msg=f"{path.parent} is no directory: name another file with -e have_file=.")
    try:
        content, signature, files = contents(
            Path(module.params["root"]), module.params["nodes"], Path(module.params["key"])
        )
    except (HaveError, OSError) as error:
        module.fail_json(msg=str(error))
    changed = differs(path, content) or differs(signature_path, signature)
    if changed and not module.check_mode:
        # At no moment does a signature stand beside a file that it is not for.
        signature_path.unlink(missing_ok=True)
        write(module, path, content)
        if signature is not None:
            write(module, signature_path, signature)
    said = "would be" if module.check_mode and changed else "has"
    module.exit_json(
        changed=changed,
        path=str(path),
        size=len(content),
        files=files,
        signed=signature is not None,
        msg=f"{path} {said} {len(content)} bytes, names {files} files and {len(module.params['nodes'])} nodes' packages"
        f"{', and is signed' if signature is not None else ''}.",
    )


if __name__ == "__main__":
    main()
