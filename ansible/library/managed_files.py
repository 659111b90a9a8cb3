#!/usr/bin/python
"""Ansible module: the directories and files of a program or a service on a node, all in one task."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: managed_files
short_description: Create and remove directories and files on a node in one go
description:
  - Does for many files what C(ansible.builtin.file), C(ansible.builtin.copy) and C(ansible.builtin.template) do for
    one, with one call on the node instead of two or three for each file.
  - Each file is complete under its name or not there at all, and at no moment more people may read it than afterwards.
    First comes what is removed, then directories, then files, in the order given. Parents that are lacking are created,
    owned by root, with mode 0755.
  - A link to a directory stays one, and what it points to gets owner and mode. A link in place of a file is replaced.
  - When something is in the way, nothing at all is changed.
  - Called through the action plugin of the same name, which reads files and renders templates on the controller.
options:
  absent:
    description: Paths of files and directories to remove, directories with all that is in them.
    type: list
    elements: path
    default: []
  directories:
    description: Directories, each with C(path), and C(owner), C(group) (root) and C(mode) (0755).
    type: list
    elements: dict
    default: []
  files:
    description:
      - Files, each with C(dest), C(owner), C(group) (root) and C(mode) (0644), and one of C(content), C(template) (one
        of the role's C(templates)) and C(src), which is a file of the role's C(files), a directory with all that is
        below it, or a list of such.
      - A C(dest) that ends in a slash is a directory, in which files have the names that they have in C(src).
      - With C(diff=false), no difference is shown of this one.
    type: list
    elements: dict
    default: []
  payload:
    description: All that as the action plugin sends it, the contents in base64. JSON, compressed with zlib, in base64.
    type: str
attributes:
  check_mode:
    description: Tells what would change.
    support: full
  diff_mode:
    description: Shows the differences of files that are text.
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Install a service
  managed_files:
    directories:
      - path: /usr/local/lib/example
    files:
      - src: program/
        dest: /usr/local/lib/example/
        diff: false
      - template: example.service.j2
        dest: /etc/systemd/system/example.service
"""

RETURN = r"""
paths:
  description: What was removed or written, or got another owner or mode.
  type: list
  elements: str
  returned: always
"""

import base64
import binascii
import json
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule


class FileError(Exception):
    """Something stands in the way; the message says what and where."""


def refuse_obstacle(path: Path, directory: bool) -> None:
    """Raise FileError when something is there that is no directory, or no file, and that nobody meant to replace."""
    if directory and os.path.lexists(path) and not path.is_dir():
        raise FileError(f"{path} is there and is no directory: move it away.")
    if not directory and path.exists() and not path.is_symlink() and not path.is_file():
        raise FileError(f"{path} is there and is no file: move it away.")


def create_directory(path: Path, check: bool) -> bool:
    """Create a directory with its parents, mode 0755, and tell whether it was lacking."""
    if path.is_dir():
        return False
    if not check:
        for lacking in [*reversed(path.parents), path]:
            if not lacking.is_dir():
                lacking.mkdir()
                lacking.chmod(0o755)  # whatever the umask is
    return True


def remove(path: Path, check: bool) -> bool:
    """Remove a file, a link, or a directory with all that is in it, and tell whether it was there."""
    if not os.path.lexists(path):
        return False
    if not check:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return True


def content_now(path: Path) -> bytes | None:
    """Return the content of a file, none where there is none, or a link."""
    return path.read_bytes() if path.is_file() and not path.is_symlink() else None


def difference(path: str, before: bytes | None, after: bytes) -> dict[str, str]:
    """Return what Ansible shows of a change."""
    try:
        texts = ((before or b"").decode(), after.decode())
    except UnicodeDecodeError:
        texts = ("(not text)\n", "(not text either)\n")
    return {"before": texts[0], "after": texts[1], "before_header": path, "after_header": path}


class _Manager:
    """Brings entries about, one after the other, and notes what changed."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.changed: list[str] = []
        self.differences: list[dict[str, str]] = []

    def _attributes(self, path: Path, entry: dict[str, Any]) -> bool:
        wanted = {"owner": "root", "group": "root", **entry}
        found = self.module.load_file_common_arguments(
            {name: wanted[name] for name in ("owner", "group", "mode")}, path=str(path)
        )
        return bool(self.module.set_fs_attributes_if_different(found, False))

    def _attributes_now(self, path: Path, entry: dict[str, Any]) -> bool:
        # In check mode there may be nothing yet whose owner could be looked at.
        return path.exists() and self._attributes(path, entry)

    def bring_about(self, entry: dict[str, Any]) -> None:
        """Remove a path, or create a directory, or a file when there is a content. Raises OSError."""
        path = Path(entry["path"])
        if entry.get("absent"):
            changed = remove(path, self.module.check_mode)
        elif "content" in entry:
            changed = self._file(path, entry)
            changed = self._attributes_now(path, entry) or changed
        else:
            # A site may have put it on another disk, with a link: owner and mode are of what is there.
            path = path.resolve()
            changed = create_directory(path, self.module.check_mode)
            changed = self._attributes_now(path, entry) or changed
        if changed:
            self.changed.append(str(path))

    def _file(self, path: Path, entry: dict[str, Any]) -> bool:
        before, after = content_now(path), base64.b64decode(entry["content"])
        if before == after:
            return False
        if entry.get("diff", True):
            self.differences.append(difference(str(path), before, after))
        if not self.module.check_mode:
            create_directory(path.parent, check=False)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(after)
                self._attributes(Path(temporary), entry)
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        return True


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "absent": {"type": "list", "elements": "path", "default": []},
            "directories": {"type": "list", "elements": "dict", "default": []},
            "files": {"type": "list", "elements": "dict", "default": []},
            # Contents may be secret, and logs are no place for files.
            "payload": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    manager = _Manager(module)
    try:
        entries = json.loads(zlib.decompress(base64.b64decode(module.params["payload"] or "")))
        for entry in entries:
            if not entry.get("absent"):
                refuse_obstacle(Path(entry["path"]), directory="content" not in entry)
        for entry in entries:
            manager.bring_about(entry)
    except (FileError, OSError) as error:
        module.fail_json(msg=str(error), paths=manager.changed)
    except (ValueError, zlib.error, binascii.Error) as error:
        module.fail_json(msg=f"managed_files is called through its action plugin, and got no payload of it: {error}")
    module.exit_json(changed=bool(manager.changed), paths=manager.changed, diff=manager.differences)


if __name__ == "__main__":
    main()
