#!/usr/bin/python
"""Ansible module: remove what is not used any more from the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: prune_mirror
short_description: Remove what neither the last bundles nor deployed flows use
description:
  - Removes packages, other files of bundles, descriptions of environments, toolkits and environments of Ansible from
    the controller, and takes them out of the indexes. In check mode, it says how much that would be.
options:
  root:
    description: Where bundles are installed.
    type: path
    required: true
  keep_bundles:
    description: How many bundles to keep the files of, the installed one among them.
    type: int
    default: 3
attributes:
  check_mode:
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Remove what is not used any more
  prune_mirror:
    root: /opt/pag
"""

RETURN = r"""
files:
  description: How many files were, or would be, removed.
  type: int
  returned: success
freed:
  description: Bytes that were, or would be, freed.
  type: int
  returned: success
held:
  description: Bytes of removed files that stay on the disk, because an unpacked bundle or the like shares them.
  type: int
  returned: success
paths:
  description: What was, or would be, removed, below root; files that are kept by content have no names to tell.
  type: list
  elements: str
  returned: success
"""

import fcntl
import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

# The one that install-pag-controller.sh holds.
LOCK = Path("/run/lock/pag-controller.lock")


class PruneError(Exception):
    """Nothing can be removed; the message is one sentence for the operator."""


def run(root: Path, keep: int, *, check: bool) -> dict[str, Any]:
    """Remove what is not used, or only find it with *check*, and return the module's result; raises PruneError."""
    # What knows the site came with the bundle, beside the packages.
    # Compiled modules that root left there would outlive the next bundle's.
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(root))
    try:
        from airgap.errors import AirgapError
        from airgap.prune import find_unused, prune
        from airgap.site import Site
    except ImportError as error:
        raise PruneError(f"There is no bundle below {root} ({error}): run install-pag-controller.sh.") from error
    site = Site(root)
    try:
        unused = find_unused(site, keep)
        figures = unused.figures()
        if unused.paths and not check:
            prune(site, unused)
    except AirgapError as error:
        raise PruneError(str(error)) from error
    return {
        "changed": bool(unused.paths),
        "files": figures.files,
        "freed": figures.freed,
        "held": figures.held,
        "paths": [path.relative_to(root).as_posix() for path in unused.paths if site.files not in path.parents],
        "msg": _message(figures.files, figures.freed, figures.held, check=check),
    }


def _message(files: int, freed: int, held: int, *, check: bool) -> str:
    if not files:
        return "Every file is used: there is nothing to remove."
    what = f"{files} files {'would be' if check else 'were'} removed, {freed} bytes freed"
    return (
        f"{what}; {held} bytes more are shared with files that stay, such as an unpacked bundle's."
        if held
        else f"{what}."
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "keep_bundles": {"type": "int", "default": 3},
        },
        supports_check_mode=True,
    )
    try:
        with LOCK.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise PruneError("A bundle is being installed: wait for that, and run this again.") from None
            result = run(Path(module.params["root"]), module.params["keep_bundles"], check=module.check_mode)
    except (PruneError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
