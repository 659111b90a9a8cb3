#!/usr/bin/python
"""Ansible module: give a controller that was set up anew what an archive of the lost one has."""

from __future__ import annotations

DOCUMENTATION = r"""
module: controller_restore
short_description: Put an archive of a lost controller back
description:
  - Checks every member of an archive that M(controller_archive) wrote, then puts back what is missing. A file that is
    there with another content is refused before anything is changed. Runs on the controller as root.
options:
  archive:
    description: The archive.
    type: path
    required: true
  owner:
    description: User whom the files beside the playbooks belong to.
    type: str
    required: true
  playbooks:
    description: The directory of the playbooks.
    type: path
    required: true
  root:
    description: Where the bundle is installed.
    type: path
    required: true
attributes:
  check_mode:
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Put the archive back
  controller_restore:
    archive: /home/operator/controller.tar
    owner: operator
    playbooks: "{{ playbook_dir }}"
    root: /opt/pag
  delegate_to: localhost
"""

RETURN = r"""
restored:
  description: The paths that were missing.
  type: list
  returned: success
made:
  description: When the archive was made.
  type: str
  returned: success
"""

import hashlib
import os
import pwd
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.site_archive import (
    FLOWS,
    MANIFEST,
    MIRROR,
    PLAYBOOKS,
    SETTINGS,
    ArchiveError,
    check,
)

_SETTINGS = Path("/etc/pag")
# Nobody else's, whatever it was.
_SECRETS, _SECRET_MODE = f"{PLAYBOOKS}/secrets.yml", 0o600


def destination(name: str, playbooks: Path, root: Path) -> Path:
    """Return where the member *name* belongs."""
    top, _, rest = name.partition("/")
    return {PLAYBOOKS: playbooks, FLOWS: root / "flows", SETTINGS: _SETTINGS, MIRROR: root / "mirror"}[top] / rest


def missing(manifest: dict[str, Any], playbooks: Path, root: Path) -> dict[str, Path]:
    """Return the members that are not there, with their places. Raises ArchiveError when one differs."""
    wanted = {}
    for entry in manifest["files"]:
        path = destination(entry["path"], playbooks, root)
        if path.is_symlink():
            same = str(path.readlink()) == entry["target"]
        elif path.exists():
            same = path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
        else:
            wanted[entry["path"]] = path
            continue
        if not same:
            raise ArchiveError(f"{path} is there and is not the archive's: move it away, then run this again.")
    return wanted


def put(archive: Path, wanted: dict[str, Path], owner: pwd.struct_passwd) -> None:
    """Write the *wanted* members, each complete before it has its name; raises OSError."""
    with tarfile.open(archive, "r:") as opened:
        for member in opened:
            path = wanted.get(member.name)
            if member.name == MANIFEST or path is None:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.restoring")
            temporary.unlink(missing_ok=True)
            if member.issym():
                temporary.symlink_to(member.linkname)
            else:
                with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                    if (source := opened.extractfile(member)) is not None:
                        shutil.copyfileobj(source, stream)
                temporary.chmod(_SECRET_MODE if member.name == _SECRETS else member.mode)
            if member.name.startswith(f"{PLAYBOOKS}/"):
                os.chown(temporary, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
                if path.parent.owner() == "root":
                    os.chown(path.parent, owner.pw_uid, owner.pw_gid)
            temporary.replace(path)


def index(root: Path) -> None:
    """Bring the mirror's indexes up to date with packages that were put there. Raises ArchiveError."""
    # Compiled modules that root left there would outlive the next bundle's.
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(root))
    try:
        from airgap.environment import Environment
        from airgap.errors import AirgapError
        from airgap.mirror_index import refresh
        from airgap.site import Site
    except ImportError as error:
        raise ArchiveError(f"There is no bundle below {root} ({error}): run install-pag-controller.sh.") from error
    try:
        site = Site(root)
        descriptions = [path for record in site.flow_records() for path in record.descriptions.values()]
        refresh(site.mirror, environments=[Environment.from_file(path) for path in descriptions])
    except AirgapError as error:
        raise ArchiveError(str(error)) from error


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "archive": {"type": "path", "required": True},
            "owner": {"type": "str", "required": True},
            "playbooks": {"type": "path", "required": True},
            "root": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    archive, playbooks, root = (Path(module.params[name]) for name in ("archive", "playbooks", "root"))
    try:
        if not (root / MANIFEST).is_file():
            raise ArchiveError(f"There is no bundle below {root}: run install-pag-controller.sh first.")
        manifest = check(archive)
        wanted = missing(manifest, playbooks, root)
        if not module.check_mode:
            put(archive, wanted, pwd.getpwnam(module.params["owner"]))
            index(root)
    except (ArchiveError, OSError, KeyError) as error:
        module.fail_json(msg=str(error))
    count = len(manifest["files"])
    verb = "would be put back" if module.check_mode else "were put back"
    module.exit_json(
        changed=bool(wanted),
        restored=sorted(wanted),
        made=manifest["made"],
        msg=f"{len(wanted)} of {count} files of the controller's archive of {manifest['made']} {verb}; the others were "
        "there.",
    )


if __name__ == "__main__":
    main()
