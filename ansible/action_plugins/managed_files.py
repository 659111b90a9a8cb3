"""Ansible action plugin: what the module managed_files needs of the controller: contents and rendered templates."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

_ORIGINS = ("content", "src", "template")
_ATTRIBUTES = ("owner", "group", "mode")
_CACHES = ("__pycache__",)


def files_below(directory: Path) -> list[tuple[str, bytes]]:
    """Return the name below *directory* and the content of every file there, without what Python left."""
    return [
        (path.relative_to(directory).as_posix(), path.read_bytes())
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not set(path.parts) & set(_CACHES)
    ]


def _refuse_unknown(entry: dict[str, Any], *known: str) -> None:
    """Raise AnsibleActionFail for what the entry has besides *known*, of which it needs the first."""
    unknown = sorted(entry.keys() - set(known))
    if unknown or known[0] not in entry:
        wrong = f"nobody knows {', '.join(unknown)}" if unknown else f"{known[0]} is missing"
        where = entry.get(known[0], "an entry")
        raise AnsibleActionFail(f"managed_files: {wrong} in {where}: there may be {', '.join(known)}.")


def packed(entries: list[dict[str, Any]]) -> str:
    """Return the entries as one text without line breaks, which says nothing to whoever reads a log."""
    return base64.b64encode(zlib.compress(json.dumps(entries).encode())).decode()


class ActionModule(ActionBase):
    """Gathers what is to be written, and sends it to the module at once."""

    _VALID_ARGS = frozenset(("absent", "directories", "files"))

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Run the module on the node and return its result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        arguments = self._task.args
        entries: list[dict[str, Any]] = [{"path": str(path), "absent": True} for path in arguments.get("absent") or []]
        for entry in arguments.get("directories") or []:
            _refuse_unknown(entry, "path", *_ATTRIBUTES)
            entries.append({"mode": "0755", **entry})
        for entry in arguments.get("files") or []:
            _refuse_unknown(entry, "dest", "diff", *_ORIGINS, *_ATTRIBUTES)
            entries += self._files(dict(entry), task_vars or {})
        answer = self._execute_module(
            module_name="managed_files", module_args={"payload": packed(entries)}, task_vars=task_vars
        )
        if not self._task.diff:
            answer.pop("diff", None)
        return {**result, **answer}

    def _files(self, entry: dict[str, Any], task_vars: dict[str, Any]) -> list[dict[str, Any]]:
        """Return an entry of the task for the module: one for each file when it names a directory."""
        origins = [name for name in _ORIGINS if name in entry]
        if len(origins) != 1:
            raise AnsibleActionFail(f"managed_files: {entry['dest']} needs one of {', '.join(_ORIGINS)}.")
        value, dest = entry.pop(origins[0]), str(entry.pop("dest"))
        try:
            if origins == ["content"]:
                if not isinstance(value, str):
                    raise AnsibleActionFail(f"content is {type(value).__name__}, and no text")
                found = [(dest, value.encode())]
            elif origins == ["template"]:
                found = [(dest, self._rendered(str(value), task_vars).encode())]
            else:
                found = self._read(value if isinstance(value, list) else [value], dest)
        except (AnsibleError, OSError) as error:
            raise AnsibleActionFail(f"managed_files: {dest} cannot be made: {error}") from error
        return [
            {"mode": "0644", **entry, "path": path, "content": base64.b64encode(content).decode()}
            for path, content in found
        ]

    def _read(self, names: list[str], dest: str) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        for name in names:
            source = Path(self._find_needle("files", str(name)))
            if source.is_dir():
                found += [(f"{dest.rstrip('/')}/{below}", content) for below, content in files_below(source)]
            else:
                found.append((dest + source.name if dest.endswith("/") else dest, source.read_bytes()))
        return found

    def _rendered(self, name: str, task_vars: dict[str, Any]) -> str:
        lookup = self._shared_loader_obj.lookup_loader.get(
            "ansible.builtin.template", loader=self._loader, templar=self._templar
        )
        return "".join(lookup.run([name], task_vars))
