"""Ansible action plugin: what a run is given, as a digest, for the module node_receipt."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

# Ansible's own variables, and those of a moment. What the inventory says about other hosts is in SERVER_VARIABLES.
_OTHERS = {
    "ansible_facts",
    "environment",
    "groups",
    "hostvars",
    "omit",
    "pag_node",
    "play_hosts",
    "vars",
}
_PREFIXES = ("__", "ansible_", "role_")
# What of the facts about the node roles act on; the rest of them may change at any time.
_NODE_FACTS = ("target", "python", "hostname", "machine_id", "toolkit")
_SERVER_VARIABLES = ("ansible_host",)
# The controller's certificates, and the variables that name the site's own.
_CERTIFICATES = Path("/etc/pag")
_SITE_CERTIFICATES = ("server_certificate", "server_certificate_ca")
# What the site writes beside the playbooks. Its variables count, wherever they stand.
_NOT_PLAYBOOKS = ("inventory.yml", "secrets.yml", "collections", "__pycache__")


def given(variables: dict[str, Any]) -> dict[str, Any]:
    """Return those of a host's variables that say what it shall be."""
    found = {name: value for name, value in variables.items() if name not in _OTHERS and not name.startswith(_PREFIXES)}
    node = variables.get("pag_node") or {}
    found["pag_node"] = {name: node.get(name) for name in _NODE_FACTS}
    servers = list((variables.get("groups") or {}).get("prefect_servers", []))
    hosts = variables.get("hostvars") or {}
    found["servers"] = {
        name: {key: hosts[name].get(key) for key in _SERVER_VARIABLES} for name in servers if name in hosts
    }
    return found


def digest_of_files(directory: Path, patterns: tuple[str, ...], skipped: tuple[str, ...] = ()) -> str:
    """Return a digest of names and contents of the files below *directory* that match one of the *patterns*."""
    digest = hashlib.sha256()
    paths = {path for pattern in patterns for path in directory.glob(pattern)}
    for path in sorted(paths):
        name = path.relative_to(directory)
        if path.is_file() and not set(name.parts) & set(skipped):
            digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


class ActionModule(ActionBase):
    """Adds C(inputs) to the module's arguments."""

    def _content(self, path: Any) -> str:
        """Return a digest of the file that a variable names, nothing when it names none that can be read."""
        file = Path(str(self._templar.template(path or "")))
        return hashlib.sha256(file.read_bytes()).hexdigest() if path and file.is_file() else ""

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Run the module on the machine and return its result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        variables = dict(task_vars or {})
        root = Path(str(self._templar.template(variables.get("pag_root", "/opt/pag"))))
        playbooks = Path(str(variables["playbook_dir"]))
        inputs = [
            json.dumps(given(variables), sort_keys=True, default=str),
            digest_of_files(playbooks, ("*.yml", "*/**/*"), _NOT_PLAYBOOKS),
            # What workers install beside what the playbooks say: the flows that are deployed.
            digest_of_files(root / "flows", ("**/*.json",)),
            digest_of_files(_CERTIFICATES, ("*.crt", "*/*.crt")),
            *(self._content(variables.get(name)) for name in _SITE_CERTIFICATES),
        ]
        arguments = {**self._task.args, "inputs": hashlib.sha256("\0".join(inputs).encode()).hexdigest()}
        result.update(self._execute_module(module_name="node_receipt", module_args=arguments, task_vars=task_vars))
        return result
