#!/usr/bin/python
"""Ansible module: one archive of what all machines said of themselves."""

from __future__ import annotations

DOCUMENTATION = r"""
module: support_bundle
short_description: Join the machines' archives and the controller's own records into one, without secrets
description:
  - Adds the status, the inventory with its group_vars and host_vars, the bundle's manifest, the registry of flows and
    Ansible's log. Files of secrets and the contents of vaults are never read into it.
  - Writes the archive in check mode too.
options:
  dest:
    description: The archive to write, a C(.tar.gz); private, and its directory's owner's.
    type: path
    required: true
  directory:
    description: Directory with the machines' archives, C(<name>.tar.gz).
    type: path
    required: true
  machines:
    description: An entry for each machine, with name, index as of M(support_files), or reason where it has no archive.
    type: list
    elements: dict
    required: true
  status:
    description: What M(status_report) returned.
    type: dict
    required: true
  inventory:
    description: The inventory's files and directories.
    type: list
    elements: path
    required: true
  playbooks:
    description: Directory of the playbooks.
    type: path
    required: true
  root:
    description: Where the bundle is installed on the controller.
    type: path
    required: true
  log:
    description: Ansible's log. Empty, there is none.
    type: str
    default: ""
  facts:
    description: More to say about the controller.
    type: dict
    default: {}
  secrets:
    description: Values that are masked; texts in lists and dictionaries count too.
    type: list
    elements: raw
    default: []
attributes:
  check_mode:
    support: full
author: pag
"""

EXAMPLES = r"""
- name: Join
  support_bundle:
    dest: /home/operator/pag-support-20261121T063000Z.tar.gz
    directory: /tmp/ansible.x
    machines: [{name: pag-server, index: {}}]
    status: {}
    inventory: [/home/operator/pag-software-bundle/ansible/inventory.yml]
    playbooks: /home/operator/pag-software-bundle/ansible
    root: /opt/pag
  no_log: true
"""

RETURN = r"""
size:
  description: The archive's bytes.
  type: int
  returned: always
files:
  description: How many files are in it.
  type: int
  returned: always
masked:
  description: How many secrets were masked.
  type: int
  returned: always
"""

import json
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.masking import Masker
from ansible.module_utils.support_archive import Archive, flat

if TYPE_CHECKING:
    from collections.abc import Iterator

# What users put there may be anything.
_USERS_OWN = ("parameters", "default_parameters", "job_variables", "env", "enforce_parameter_schema")
_YAML = (".yml", ".yaml")
_SECRETS = "secrets"
_LOG_BYTES = 2_000_000


def controller_parts(parameters: dict[str, Any], masker: Masker) -> Iterator[tuple[str, str]]:
    """Yield path and masked text of the controller's records."""
    yield "status.txt", masker.mask(parameters["status"]["screen"])
    yield "status.json", _json(masker.document(parameters["status"]["status"]))
    playbooks, root = Path(parameters["playbooks"]), Path(parameters["root"])
    yield "controller/facts.json", _json(masker.document(parameters["facts"]) | _secrets_file(playbooks))
    for source in map(Path, parameters["inventory"]):
        for file in inventory_files(source):
            text = file.read_text(encoding="utf-8", errors="replace")
            path = f"controller/inventory/{file.relative_to(source.parent)}"
            yield path, masker.yaml(text) if file.suffix in _YAML or not file.suffix else masker.mask(text)
    for name in ("ansible.cfg",):
        if (playbooks / name).is_file():
            yield f"controller/playbooks/{name}", masker.yaml((playbooks / name).read_text(encoding="utf-8"))
    if (root / "manifest.json").is_file():
        yield "controller/manifest.json", (root / "manifest.json").read_text(encoding="utf-8")
    flows = root / "flows"
    # Since flows have versions, the current one's record is a level deeper.
    for record in sorted([*flows.glob("*/*/record.json"), *flows.glob("*/*/current/record.json")]):
        document = without_users_own(json.loads(record.read_text(encoding="utf-8")))
        yield f"controller/flows/{record.parent.relative_to(flows)}.json", _json(masker.document(document))
    if parameters["log"] and Path(parameters["log"]).is_file():
        text = Path(parameters["log"]).read_text(encoding="utf-8", errors="replace")[-_LOG_BYTES:]
        yield "controller/ansible.log", masker.mask(text.partition("\n")[2])


def inventory_files(source: Path) -> list[Path]:
    """Return the files of the inventory *source*, with the variables beside it; programs and secrets are left out."""
    if not source.exists():
        return []
    found = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
    for name in ("group_vars", "host_vars"):
        found += [path for path in (source.parent / name).rglob("*") if path.is_file()]
    return sorted({path for path in found if not path.stem.startswith(_SECRETS) and not os.access(path, os.X_OK)})


def without_users_own(document: Any) -> Any:
    """Return *document* without the values that users gave their flows."""
    if isinstance(document, dict):
        return {key: "left out" if key in _USERS_OWN else without_users_own(value) for key, value in document.items()}
    return [without_users_own(value) for value in document] if isinstance(document, list) else document


def _json(document: Any) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _secrets_file(playbooks: Path) -> dict[str, Any]:
    path = playbooks / "secrets.yml"
    if not path.is_file():
        return {"secrets.yml": None}
    with path.open("rb") as stream:
        vault = stream.read(14) == b"$ANSIBLE_VAULT"
    return {"secrets.yml": {"mode": f"{path.stat().st_mode & 0o777:04o}", "vault": vault}}


def join(parameters: dict[str, Any]) -> tuple[Archive, int]:
    """Write the archive and return it, and how many secrets were masked in all."""
    dest = Path(parameters["dest"])
    top = dest.name.removesuffix(".tar.gz")
    masker = Masker(flat(parameters["secrets"]))
    total: Counter[str] = Counter()
    with Archive(dest) as archive:
        for path, text in controller_parts(parameters, masker):
            archive.add(f"{top}/{path}", text)
        for machine in parameters["machines"]:
            file = Path(parameters["directory"]) / f"{machine['name']}.tar.gz"
            if not file.is_file():
                continue
            with tarfile.open(file) as tar:
                for member in tar:
                    stream = tar.extractfile(member)
                    if stream is not None:
                        where = "controller" if machine.get("controller") else f"nodes/{machine['name']}"
                        archive.add(f"{top}/{where}/{member.name}", stream.read().decode("utf-8", "replace"))
            total.update((machine.get("index") or {}).get("masked", {}))
        total.update(masker.counts)
        machines = [
            {"name": machine["name"], "reason": masker.mask(machine.get("reason") or ""), "index": machine.get("index")}
            for machine in parameters["machines"]
        ]
        index = {"format_version": 1, "masked": dict(total), "files": archive.files, "machines": machines}
        archive.add(f"{top}/index.json", _json(index))
    return archive, sum(total.values())


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "dest": {"type": "path", "required": True},
            "directory": {"type": "path", "required": True},
            "machines": {"type": "list", "elements": "dict", "required": True},
            "status": {"type": "dict", "required": True},
            "inventory": {"type": "list", "elements": "path", "required": True},
            "playbooks": {"type": "path", "required": True},
            "root": {"type": "path", "required": True},
            "log": {"type": "str", "default": ""},
            "facts": {"type": "dict", "default": {}},
            "secrets": {"type": "list", "elements": "raw", "default": [], "no_log": True},
        },
        supports_check_mode=True,
    )
    dest = Path(module.params["dest"])
    if not dest.parent.is_dir():
        module.fail_json(msg=f"{dest.parent} is no directory: name another file with -e support_bundle_file=.")
    try:
        archive, masked = join(module.params)
        owner = dest.parent.stat()
        os.chown(dest, owner.st_uid, owner.st_gid)
    except OSError as error:
        module.fail_json(msg=f"{dest} cannot be written ({error}): make room there, or name another file.")
    module.exit_json(changed=False, size=dest.stat().st_size, files=len(archive.files), masked=masked)


if __name__ == "__main__":
    main()
