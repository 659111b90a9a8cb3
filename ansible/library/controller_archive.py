#!/usr/bin/python
"""Ansible module: put what the controller alone has into one archive."""

from __future__ import annotations

DOCUMENTATION = r"""
module: controller_archive
short_description: Put what the controller alone has into one archive
description:
  - The archive has the inventory, the secrets as they are, group and host variables, C(/etc/pag), the deployed flows
    (definitions and code), and those packages in the mirror that no kept bundle brings.
  - It is written only when something of that has changed since the last one; the oldest ones are removed. Runs on the
    controller as root.
options:
  directory:
    description: Where archives are kept, as C(<UTC time>.tar), for their owner alone.
    type: path
    required: true
  owner:
    description: User whom they belong to.
    type: str
    required: true
  keep:
    description: How many are kept.
    type: int
    required: true
  playbooks:
    description: The directory of the playbooks.
    type: path
    required: true
  inventories:
    description: The inventory files, or directories.
    type: list
    elements: path
    required: true
  root:
    description: Where the bundle is installed.
    type: path
    required: true
  bundle:
    description: Version and digest of the installed bundle.
    type: dict
    required: true
attributes:
  check_mode:
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Put what the controller alone has into one archive
  controller_archive:
    directory: /opt/pag/backups/controller
    owner: operator
    keep: 14
    playbooks: "{{ playbook_dir }}"
    inventories: "{{ ansible_inventory_sources }}"
    root: /opt/pag
    bundle: {version: "1", digest: "..."}
  delegate_to: localhost
"""

RETURN = r"""
path:
  description: The newest archive; empty in check mode when there is none.
  type: str
  returned: success
size:
  description: Its bytes.
  type: int
  returned: success
files:
  description: How many files are in it.
  type: int
  returned: success
"""

import pwd
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.server_backup import NAME_FORMAT
from ansible.module_utils.site_archive import (
    FLOWS,
    MIRROR,
    PLAYBOOKS,
    SETTINGS,
    ArchiveError,
    entries,
    read_manifest,
    write,
)

_SETTINGS = Path("/etc/pag")
# A new bundle brings this one.
_OURS = "group_vars/all.yml"


def sources(playbooks: Path, inventories: list[Path], root: Path) -> Iterator[tuple[str, Path]]:
    """Yield what belongs into the archive: its path there, and the file or directory. Raises ArchiveError."""
    for path in [*inventories, playbooks / "secrets.yml", playbooks / "host_vars"]:
        if path.exists():
            yield f"{PLAYBOOKS}/{path.name}", path
    for path in (playbooks / "group_vars").glob("*"):
        if path.relative_to(playbooks).as_posix() != _OURS:
            yield f"{PLAYBOOKS}/group_vars/{path.name}", path
    for name, path in ((SETTINGS, _SETTINGS), (FLOWS, root / "flows")):
        if path.is_dir():
            yield name, path
    for name in packages(root):
        yield name, root / name


def packages(root: Path) -> list[str]:
    """Return the packages that deployed flows need and no kept bundle brings, by path below *root*."""
    # What knows the site came with the bundle, beside the packages.
    # Compiled modules that root left there would outlive the next bundle's.
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(root))
    try:
        from airgap.environment import Environment
        from airgap.errors import AirgapError
        from airgap.site import Site
    except ImportError as error:
        raise ArchiveError(f"There is no bundle below {root} ({error}): run install-pag-controller.sh.") from error
    try:
        site = Site(root)
        brought = {file.path for manifest in site.manifests() for file in manifest.files}
        needed = {
            f"{MIRROR}/{file.path}"
            for record in site.flow_records()
            for description in record.descriptions.values()
            for file in Environment.from_file(description).files
        }
    except AirgapError as error:
        raise ArchiveError(str(error)) from error
    return sorted(needed - brought)


def archives(directory: Path) -> list[Path]:
    """Return the archives in *directory*, the oldest first."""
    return sorted(directory.glob("[0-9]*Z.tar"))


def newest_files(directory: Path) -> list[dict[str, Any]] | None:
    """Return what the newest archive in *directory* holds, None when there is none that can be read."""
    try:
        return list(read_manifest(archives(directory)[-1])["files"])
    except (IndexError, ArchiveError):
        return None


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "owner": {"type": "str", "required": True},
            "keep": {"type": "int", "required": True},
            "playbooks": {"type": "path", "required": True},
            "inventories": {"type": "list", "elements": "path", "required": True},
            "root": {"type": "path", "required": True},
            "bundle": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    directory = Path(parameters["directory"])
    try:
        given = sources(
            Path(parameters["playbooks"]), [Path(path) for path in parameters["inventories"]], Path(parameters["root"])
        )
        listed = list(entries(given))
        changed = newest_files(directory) != [entry.to_dict() for entry, _ in listed]
        if changed and not module.check_mode:
            directory.mkdir(parents=True, exist_ok=True)
            path = directory / f"{time.strftime(NAME_FORMAT, time.gmtime())}.tar"
            write(
                path,
                listed,
                {"bundle": parameters["bundle"], "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
            )
            user = pwd.getpwnam(parameters["owner"])
            directory.chmod(0o700)
            for owned in (directory, path):
                shutil.chown(owned, user.pw_uid, user.pw_gid)
            for old in archives(directory)[: -max(1, parameters["keep"])]:
                old.unlink()
    except (ArchiveError, OSError, KeyError) as error:
        module.fail_json(msg=str(error))
    newest = archives(directory)[-1:] if directory.is_dir() else []
    size = newest[0].stat().st_size if newest else 0
    verb = "would be written" if changed and module.check_mode else "is written" if changed else "is there already"
    module.exit_json(
        changed=changed,
        path=str(newest[0]) if newest else "",
        size=size,
        files=len(listed),
        msg=f"An archive of the controller's {len(listed)} own files {verb}: "
        f"{newest[0] if newest else directory}, {size} bytes.",
    )


if __name__ == "__main__":
    main()
