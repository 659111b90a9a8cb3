#!/usr/bin/python
"""Ansible module: the controller's record of an upgrade."""

from __future__ import annotations

DOCUMENTATION = r"""
module: upgrade_record
short_description: Keep the controller's record of an upgrade
description:
  - C(<directory>/<number>/state.json) says what an upgrade goes from and to, and how far it is. Runs on the controller.
  - Several nodes may add to it at once.
options:
  directory:
    description: Where the records are.
    type: path
    default: /opt/pag/upgrade
  new:
    description: Whether to begin a record with the next number. Without, the last one is read, and added to.
    type: bool
    default: false
  add:
    description: What to put into the record; dictionaries are merged with those that are there.
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: pag
"""

EXAMPLES = r"""
- name: Remember that the node is done
  upgrade_record:
    add: {nodes: {pag-worker-1: {done: true}}}
"""

RETURN = r"""
record:
  description: The record; empty when there is none.
  type: dict
  returned: success
file:
  description: Path of its file; empty when there is none.
  type: str
  returned: success
"""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

FORMAT_VERSION = 1


class RecordError(Exception):
    """The record cannot be read; the message is one sentence for the operator."""


def last(directory: Path) -> Path | None:
    """Return the file of the record with the highest number, None before the first."""
    files = [path for path in directory.glob("*/state.json") if path.parent.name.isdecimal()]
    return max(files, key=lambda path: int(path.parent.name), default=None)


def read(file: Path | None) -> dict[str, Any]:
    """Return the record in *file*, an empty one for None. Raises RecordError."""
    if file is None:
        return {}
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{file} cannot be read ({error}): look at it, and move its directory away.") from error
    if record.get("format_version") != FORMAT_VERSION:
        raise RecordError(
            f"{file} has format version {record.get('format_version')}, this software reads {FORMAT_VERSION}: use the "
            "playbooks that wrote it."
        )
    return record


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return *old* with the entries of *new*; what is a dictionary in both is merged in the same way."""
    result = dict(old)
    for key, value in new.items():
        mergeable = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if mergeable else value
    return result


def write(file: Path, record: dict[str, Any]) -> None:
    """Put *record* into *file*, which appears whole and outlasts a loss of power."""
    file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.part")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(record, stream, indent=1, sort_keys=True)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.chmod(0o644)
    temporary.replace(file)


def run(directory: Path, addition: dict[str, Any], *, new: bool, check: bool) -> dict[str, Any]:
    """Read, add and write; return the module's result. Raises RecordError and OSError."""
    file = last(directory)
    if not (new or addition):
        return {"changed": False, "record": read(file), "file": str(file or "")}
    if check:
        record = {"format_version": FORMAT_VERSION} if new else read(file)
        return {"changed": True, "record": merged(record, addition), "file": str(file or "")}
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (directory / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = last(directory)
        if new or file is None:
            number = 1 if file is None else int(file.parent.name) + 1
            file = directory / f"{number:04}" / "state.json"
            before: dict[str, Any] = {"format_version": FORMAT_VERSION}
        else:
            before = read(file)
        record = merged(before, addition)
        changed = new or record != before
        if changed:
            write(file, record)
    return {"changed": changed, "record": record, "file": str(file)}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "default": "/opt/pag/upgrade"},
            "new": {"type": "bool", "default": False},
            "add": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    parameters = module.params
    try:
        module.exit_json(
            **run(Path(parameters["directory"]), parameters["add"], new=parameters["new"], check=module.check_mode)
        )
    except RecordError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(
            msg=f"The upgrade cannot be recorded on the controller ({error}): make room, and run this again."
        )


if __name__ == "__main__":
    main()
