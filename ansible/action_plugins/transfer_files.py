"""Ansible action plugin: the module transfer_files, which is ansible.posix.synchronize with a list of files."""

from __future__ import annotations

import tempfile
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Writes the list for rsync where Ansible runs, and leaves the rest to C(ansible.posix.synchronize)."""

    _VALID_ARGS = frozenset(("source", "destination", "files", "older"))
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Transfer the files and return the result of C(ansible.posix.synchronize)."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        arguments = self._task.args
        if not arguments.get("source") or not arguments.get("destination"):
            raise AnsibleActionFail("transfer_files needs source and destination: name two directories.")
        files = [str(name) for name in arguments.get("files") or []]
        if not files:
            return {**result, "changed": False, "msg": "There is nothing to transfer."}
        if broken := [name for name in files if "\n" in name or not name]:
            raise AnsibleActionFail(f"transfer_files: {broken[0]!r} in files cannot be the name of a file.")
        with tempfile.NamedTemporaryFile("w", prefix="pag-transfer-", encoding="utf-8") as listed:
            listed.write("".join(f"{name}\n" for name in files))
            listed.flush()
            task = self._task.copy()
            task.args = {
                "src": f"{str(arguments['source']).rstrip('/')}/",
                "dest": f"{str(arguments['destination']).rstrip('/')}/",
                "archive": False,
                # Compares contents, so that a file which was damaged on the node is replaced.
                "checksum": True,
                "compress": False,
                "use_ssh_args": True,
                "rsync_opts": [
                    f"--files-from={listed.name}",
                    "--chmod=D0755,F0644",
                    "--mkpath",
                    *(f"--link-dest={directory}" for directory in arguments.get("older") or []),
                ],
            }
            synchronize = self._shared_loader_obj.action_loader.get(
                "ansible.posix.synchronize",
                task=task,
                connection=self._connection,
                play_context=self._play_context,
                loader=self._loader,
                templar=self._templar,
                shared_loader_obj=self._shared_loader_obj,
            )
            return {**result, **synchronize.run(task_vars=task_vars)}
