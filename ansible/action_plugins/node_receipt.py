"""Ansible action plugin: what a run is given, as a digest, for the module node_receipt."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

# Ansible's own variables, and those of a moment. What the inventory says about other hosts is in SERVER_VARIABLES.
_OTHERS = {
    "ansible_facts",
    "environment",
    "groups",
    "hostvars",
    "omit",
    # Facts: the bundle's manifest counts below, and what nodes are is among what receipts are about.
    "pag_bundle",
    "pag_node",
    "play_hosts",
    "vars",
}
_PREFIXES = ("__", "ansible_", "role_")
_SERVER_VARIABLES = ("ansible_host",)
# The controller's certificates, and the variables that name the site's own.
_CERTIFICATES = Path("/etc/pag")
_SITE_CERTIFICATES = ("server_certificate", "server_certificate_ca")
_MANIFEST = "manifest.json"
# What the site writes beside the playbooks. Its variables count, wherever they stand.
_NOT_PLAYBOOKS = ("inventory.yml", "secrets.yml", "collections", "__pycache__")


def given(variables: dict[str, Any]) -> dict[str, Any]:
    """Return those of a host's variables that say what it shall be."""
    found = {name: value for name, value in variables.items() if name not in _OTHERS and not name.startswith(_PREFIXES)}
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

    def _inputs(self, variables: dict[str, Any]) -> str:
        """Return a digest of what the run is given for this machine."""
        root = Path(str(self._templar.template(variables.get("pag_root", "/opt/pag"))))
        playbooks = Path(str(variables["playbook_dir"]))
        inputs = [
            json.dumps(given(variables), sort_keys=True, default=str),
            digest_of_files(playbooks, ("*.yml", "*/**/*"), _NOT_PLAYBOOKS),
            digest_of_files(playbooks.parent, (_MANIFEST,)),
            digest_of_files(root, (_MANIFEST, "airgap/**/*.py")),
            # What workers install beside what the playbooks say: the flows that are deployed.
            digest_of_files(root / "flows", ("**/*.json",)),
            digest_of_files(_CERTIFICATES, ("*.crt", "*/*.crt")),
            *(self._content(variables.get(name)) for name in _SITE_CERTIFICATES),
        ]
        return hashlib.sha256("\0".join(inputs).encode()).hexdigest()

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Run the module on the machine and return its result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        arguments = dict(self._task.args)
        if arguments.get("state") != "ask":
            return {**result, **self._execute_module(module_args=arguments, task_vars=task_vars)}
        arguments["inputs"] = self._inputs(dict(task_vars or {}))
        try:
            answer = self._execute_module(module_args=arguments, task_vars=task_vars)
        except AnsibleConnectionFailure as error:
            answer = {"failed": True, "msg": str(error)}
        if answer.get("failed"):
            # The preflight reports machines that cannot be asked anything, all in one list; the rest is said here.
            reason = str(answer.get("msg"))
            told = f"{(task_vars or {}).get('inventory_hostname')} is looked at as if it were new: {reason}"
            answer = {"changed": False, "held": False, "parts": {}, "different": [reason], "warnings": [told]}
        return {**result, **answer}
