#!/usr/bin/python
"""Ansible module: the SSH host keys of hosts, against those that are known."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ssh_host_keys
short_description: Gather hosts' SSH keys, compare them with those that are known, and add those that were confirmed
description:
  - With O(state=ask), asks every host for its keys (ssh-keyscan) and says by host which are new, known or changed.
  - With O(state=present), writes O(keys), which an earlier question returned, so that what was confirmed is what is
    written, without asking the network again.
options:
  state:
    description: Whether to ask, or to write.
    type: str
    choices: [ask, present]
    required: true
  hosts:
    description: The hosts that are asked, as SSH would be given them.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name or address.
        type: str
        required: true
      port:
        description: Port of SSH.
        type: int
        default: 22
  keys:
    description: Lines for the file, as RV(hosts) has them.
    type: list
    elements: str
    default: []
  replace:
    description: Names of hosts in the file's own form (C(host) or C([host]:port)) whose keys are taken out first.
    type: list
    elements: str
    default: []
  path:
    description: The file with known keys that is written.
    type: path
    required: true
  known_files:
    description: Further files with known keys.
    type: list
    elements: path
    default: []
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: pag
"""

EXAMPLES = r"""
- name: Ask the nodes for their keys
  ssh_host_keys:
    state: ask
    hosts: [{name: pag-server}, {name: 10.11.12.13, port: 2222}]
    path: ~/.ssh/known_hosts
  register: __ssh_hosts
"""

RETURN = r"""
hosts:
  description: For each host its form in the file, V(status) (new, known, changed or silent), V(lines) for the file,
    V(fingerprints) of the keys that it has, and V(known) of those that the file has.
  type: list
  elements: dict
  returned: O(state=ask)
"""

import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

# Seconds that a host has to answer.
_TIMEOUT = 10


def form(name: str, port: int) -> str:
    """Return how a host is called in known_hosts (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
    return name if port == 22 else f"[{name}]:{port}"


def keys_of(text: str) -> dict[str, str]:
    """Return the keys in lines of known_hosts by their type; markers, comments and names are passed over."""
    found = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 3 and not line.startswith(("#", "@")):
            found[fields[1]] = fields[2]
    return found


def status(scanned: dict[str, str], known: dict[str, str]) -> str:
    """Return whether keys are new, known, or changed: of a type that is known, another key."""
    if not scanned:
        return "silent"
    if any(known[kind] != key for kind, key in scanned.items() if kind in known):
        return "changed"
    return "known" if set(scanned) & set(known) else "new"


def _fingerprints(module: AnsibleModule, keys: dict[str, str]) -> list[str]:
    if not keys:
        return []
    text = "".join(f"{kind} {key}\n" for kind, key in sorted(keys.items()))
    _, output, _ = module.run_command(["ssh-keygen", "-l", "-f", "-"], data=text, check_rc=True)
    return [" ".join((fields := line.split())[1:2] + fields[-1:]) for line in output.splitlines()]


def _ask(module: AnsibleModule, host: dict[str, Any], path: Path) -> dict[str, Any]:
    name = form(host["name"], host["port"])
    # Its exit code is 1 when one of several kinds of keys is not there.
    _, output, _ = module.run_command(["ssh-keyscan", "-T", str(_TIMEOUT), "-p", str(host["port"]), "--", host["name"]])
    scanned = keys_of(output)
    known: dict[str, str] = {}
    for file in (*map(Path, module.params["known_files"]), path):
        if file.exists():
            # It knows names that are hashed too.
            _, output, _ = module.run_command(["ssh-keygen", "-F", name, "-f", str(file)])
            known |= keys_of(output)
    return {
        "host": name,
        "status": status(scanned, known),
        "lines": [f"{name} {kind} {key}" for kind, key in sorted(scanned.items())],
        "fingerprints": _fingerprints(module, scanned),
        "known": _fingerprints(module, known),
    }


def rewritten(text: str, lines: list[str]) -> str:
    """Return the file's text with the lines that it lacks."""
    have = set(text.splitlines())
    added = [line for line in lines if line not in have]
    if text and not text.endswith("\n"):
        text += "\n"
    return text + "".join(f"{line}\n" for line in added)


def _write(module: AnsibleModule, path: Path) -> bool:
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "known_hosts")
        copy.write_text(before, encoding="utf-8")
        for name in module.params["replace"]:
            module.run_command(["ssh-keygen", "-R", name, "-f", str(copy)], check_rc=True)
        after = rewritten(copy.read_text(encoding="utf-8"), module.params["keys"])
    if after == before:
        return False
    if not module.check_mode:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.new")
        new.write_text(after, encoding="utf-8")
        new.chmod(0o600)
        new.replace(path)
    return True


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["ask", "present"], "required": True},
            "hosts": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"name": {"type": "str", "required": True}, "port": {"type": "int", "default": 22}},
            },
            # Public keys.
            "keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "replace": {"type": "list", "elements": "str", "default": []},
            "path": {"type": "path", "required": True},
            "known_files": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    path = Path(module.params["path"])
    if module.params["state"] == "ask":
        module.exit_json(changed=False, hosts=[_ask(module, host, path) for host in module.params["hosts"]])
    module.exit_json(changed=_write(module, path))


if __name__ == "__main__":
    main()
