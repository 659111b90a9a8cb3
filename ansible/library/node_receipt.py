#!/usr/bin/python
"""Ansible module: whether a machine is still as a run found it that had nothing to change."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: node_receipt
short_description: Tell whether a machine is still as a run found it that had nothing to change
description:
  - A run of the playbook that leaves a machine exactly as it found it writes a receipt of what is there. As long as the
    machine is the same, and what the run was given too, the next run would find nothing to change either.
  - What is there are the files below some directories with owner, mode and content, the list of installed Debian
    packages, the states of services, and objects of the database and of the Prefect server. Whatever cannot be looked
    at is different.
  - C(ask) tells whether the receipts of all parts hold. One that does not is withdrawn, and what is there now is noted
    down. C(ask_again) does the same later in the run, which is still given the same. C(write) makes receipts of these
    notes where everything is still as noted, and none otherwise.
  - Called through the action plugin of the same name, which adds C(inputs). A machine that cannot be asked has no
    receipt that holds; what comes next finds out why.
options:
  parts:
    description:
      - The parts of the playbook that receipts are about, by name.
      - Each has C(queries) to PostgreSQL, by database, which are asked as C(postgres), and C(requests) for lists of
        objects of the Prefect server, each with C(path), C(body) and the C(fields) that count.
    type: dict
    required: true
  state:
    description: What to do.
    type: str
    choices: [ask, ask_again, write]
    required: true
  inputs:
    description: Digest of what the run was given. The action plugin computes it.
    type: str
  controller_time:
    description: The controller's time, in seconds since 1970. Where the clock differs too much, no receipt holds.
    type: float
  max_time_skew:
    description: By how many seconds the clock may differ.
    type: float
    default: 30
  directory:
    description: Where receipts are on the machine.
    type: path
    default: /opt/pag/receipts
  watch:
    description: Patterns of paths. Directories that match are followed to their depths when the pattern ends in C(/**).
    type: list
    elements: str
    required: true
  ignore:
    description: Patterns of paths below them that change by themselves.
    type: list
    elements: str
    default: []
  units:
    description: Patterns of systemd units that are in memory.
    type: list
    elements: str
    default: []
  api_url:
    description: Address of the Prefect API, ending in C(/api).
    type: str
  api_auth:
    description: Login to the API, as C(user:password).
    type: str
attributes:
  check_mode:
    description: Asks, and leaves receipts and notes alone.
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Ask whether the node is still as the last run found it
  node_receipt:
    parts:
      worker: {}
    state: ask
    watch: [/etc/**]
    units: [prefect-*]
  register: receipt
"""

RETURN = r"""
held:
  description: Whether the receipts of all parts hold.
  type: bool
  returned: always
parts:
  description: Whether the receipt holds, by part.
  type: dict
  returned: always
different:
  description: What is not as in the receipts, at most ten entries.
  type: list
  elements: str
  returned: always
"""

import fnmatch
import glob
import hashlib
import json
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.prefect_api import PrefectApi, PrefectApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_DPKG_STATUS = Path("/var/lib/dpkg/status")
# Of larger files, size and time of the last change count instead of the content.
_HASHED_BYTES = 4_000_000
_SHOWN = 10
_UNIT_PROPERTIES = ("Id", "Type", "TriggeredBy", "ActiveState", "UnitFileState", "NeedDaemonReload")
_PAGE = 200


class ObservationError(Exception):
    """Something could not be looked at; the message says what."""


def observe_files(watch: Sequence[str], ignore: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each path that is watched, and one line about what is there."""
    seen = set()
    for pattern in watch:
        deep = pattern.endswith("/**")
        for path in sorted(glob.glob(pattern.removesuffix("/**"))):  # noqa: PTH207 (absolute patterns)
            for found in _below(path) if deep else [path]:
                if found in seen or any(fnmatch.fnmatchcase(found, entry) for entry in ignore):
                    continue
                seen.add(found)
                yield f"file {found}", _describe(found)


def _below(directory: str) -> Iterator[str]:
    yield directory
    for parent, directories, files in os.walk(directory):
        for name in sorted((*directories, *files)):
            yield f"{parent}/{name}"


def _describe(path: str) -> str:
    try:
        status = os.lstat(path)
        owner = f"{status.st_mode:o} {status.st_uid}:{status.st_gid}"
        if stat.S_ISLNK(status.st_mode):
            return f"{owner} -> {os.readlink(path)}"  # noqa: PTH115 (many of them)
        if not stat.S_ISREG(status.st_mode):
            return owner
        if status.st_size > _HASHED_BYTES:
            return f"{owner} {status.st_size} {status.st_mtime_ns}"
        return f"{owner} {hashlib.sha256(Path(path).read_bytes()).hexdigest()}"
    except OSError as error:
        return str(error)


def observe_units(output: str) -> Iterator[tuple[str, str]]:
    """Yield each unit of ``systemctl show``, and its state; what runs only now and then is left out."""
    for block in output.strip().split("\n\n"):
        properties = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        unit = properties.get("Id", ".slice")  # a slice is there from the first run on
        if properties.get("Type") != "oneshot" and not properties.get("TriggeredBy") and not unit.endswith(".slice"):
            yield (
                f"unit {unit}",
                " ".join(properties.get(name, "") for name in _UNIT_PROPERTIES[3:]),
            )


def observe_objects(
    api: PrefectApi, path: str, body: dict[str, Any], fields: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield each object of a list of the server, and the fields that count. Raises PrefectApiError."""
    offset = 0
    while True:
        page = api.request("POST", path, {**body, "limit": _PAGE, "offset": offset})
        for entry in page:
            yield f"object {path} {entry[fields[0]]}", json.dumps({name: entry.get(name) for name in fields})
        if len(page) < _PAGE:
            return
        offset += len(page)


def observe(parameters: dict[str, Any], run: Callable[..., tuple[int, str, str]]) -> dict[str, str]:
    """Return what there is, one line for each thing by its name; *run* runs a program. Raises ObservationError."""
    found = dict(observe_files(parameters["watch"], parameters["ignore"]))
    if _DPKG_STATUS.is_file():
        found["packages"] = hashlib.sha256(_DPKG_STATUS.read_bytes()).hexdigest()
    if parameters["units"]:
        show = ["systemctl", "show", f"--property={','.join(_UNIT_PROPERTIES)}", "--", *parameters["units"]]
        code, output, errors = run(show)
        if code != 0:
            raise ObservationError(f"systemctl: {errors.strip()}")
        found.update(observe_units(output))
    return found


def observe_part(
    part: dict[str, Any], parameters: dict[str, Any], run: Callable[..., tuple[int, str, str]]
) -> dict[str, str]:
    """Return what else there is for one part of the playbook, in the same way. Raises ObservationError."""
    found: dict[str, str] = {}
    for database, query in (part.get("queries") or {}).items():
        command = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-d", database, "-c", query]
        code, output, errors = run(command, cwd="/")
        if code != 0:
            raise ObservationError(f"database {database}: {errors.strip()}")
        # What it says may be secret.
        found[f"database {database}"] = hashlib.sha256(output.encode()).hexdigest()
    for request in part.get("requests") or []:
        api = PrefectApi(parameters["api_url"], parameters["api_auth"], 10)
        try:
            found.update(observe_objects(api, request["path"], request.get("body") or {}, request["fields"]))
        except PrefectApiError as error:
            raise ObservationError(str(error)) from error
    return found


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return the names of what is not the same, sorted."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def clock_is_off(now: float, told: float | None, most: float) -> bool:
    """Tell whether a clock that says *now* differs by more than *most* seconds from what it was *told*, if anything."""
    return told is not None and abs(now - told) > most


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _store(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        json.dump(document, stream)
    temporary.replace(path)


def ask(directory: Path, part: str, inputs: str | None, found: dict[str, str], keep: bool) -> list[str]:
    """Return what is not as in the receipt; then withdraw it and note down what is *found*, unless *keep*.

    Without *inputs*, the run is given what the receipt says.
    """
    receipt = directory / f"{part}.json"
    document = _read(receipt)
    if inputs is None:
        inputs = document.get("inputs")
    if not document:
        different = ["there is no receipt"]
    elif document.get("inputs") != inputs:
        different = ["what the run is given"]
    else:
        different = differences(document.get("found", {}), found)
    # Before the first installation there is nothing to note, and nothing may be made: what was there is asked later.
    if different and not keep and directory.parent.is_dir():
        receipt.unlink(missing_ok=True)
        _store(directory / f"{part}.note", {"inputs": inputs, "found": found})
    return different


def write(directory: Path, part: str, found: dict[str, str]) -> list[str]:
    """Make the note a receipt when everything is as noted, and return what is not."""
    note = directory / f"{part}.note"
    document = _read(note)
    different = differences(document.get("found", {}), found) if document else ["there is no note"]
    if different:
        note.unlink(missing_ok=True)
    else:
        note.replace(directory / f"{part}.json")
    return different


def _each(parameters: dict[str, Any], run: Callable[..., tuple[int, str, str]], check: bool) -> dict[str, list[str]]:
    """Ask about each part, or write its receipt, and return what is different, by part."""
    directory, parts, different = Path(parameters["directory"]), parameters["parts"], {}
    try:
        everywhere = observe(parameters, run)
        for name, part in parts.items():
            found = everywhere | observe_part(part or {}, parameters, run)
            if parameters["state"] == "write":
                different[name] = write(directory, name, found) if not check else []
            else:
                different[name] = ask(directory, name, parameters["inputs"], found, check)
    except ObservationError as error:
        # As good as different: the run will find out what is wrong, and mend it.
        for name in parts.keys() - different.keys():
            different[name] = [str(error)]
            if not check:
                for suffix in ("json", "note"):
                    (directory / f"{name}.{suffix}").unlink(missing_ok=True)
    return different


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "parts": {"type": "dict", "required": True},
            "state": {"type": "str", "choices": ["ask", "ask_again", "write"], "required": True},
            # Secrets went into it.
            "inputs": {"type": "str", "no_log": True},
            "controller_time": {"type": "float"},
            "max_time_skew": {"type": "float", "default": 30},
            "directory": {"type": "path", "default": "/opt/pag/receipts"},
            "watch": {"type": "list", "elements": "str", "required": True},
            "ignore": {"type": "list", "elements": "str", "default": []},
            "units": {"type": "list", "elements": "str", "default": []},
            "api_url": {"type": "str"},
            "api_auth": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    clock = time.time()
    different = _each(module.params, module.run_command, module.check_mode)
    everything = [entry for entries in different.values() for entry in entries]
    if clock_is_off(clock, module.params["controller_time"], module.params["max_time_skew"]):
        everything.append("the clock")
    # Receipts are notes about the machine and nothing of what it is asked to be.
    module.exit_json(
        changed=False,
        held=not everything,
        parts={name: not entries for name, entries in different.items()},
        different=everything[:_SHOWN],
    )


if __name__ == "__main__":
    main()
