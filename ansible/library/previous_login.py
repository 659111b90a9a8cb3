#!/usr/bin/python
"""Ansible module: the login that the proxy took until now, kept for a while beside the one that replaces it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: previous_login
short_description: Keep a replaced login valid for some hours
description:
  - Flow runs have their login from when they began, and are refused when the proxy takes another one only. When
    O(path), the proxy's configuration, has a login that is not O(login), it is written to O(kept), a file of entries
    for nginx's C(map) that O(path) includes, as V(replaced); its first line says until when it is valid.
  - Later runs leave that file as it is until then, and remove it afterwards, or when O(hours) is 0.
  - Run it before O(path) is written.
options:
  login:
    description: The login from now on, as C(user:password).
    type: str
    required: true
  path:
    description: The proxy's configuration, in which the login until now is an entry that ends with V(right;).
    type: path
    required: true
  kept:
    description: Where the previous login is kept. Root's alone. Its directory must exist, except in check mode.
    type: path
    required: true
  hours:
    description: For how many hours a login is valid that was replaced; V(0) for none.
    type: float
    required: true
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: pag
"""

EXAMPLES = r"""
- name: Keep the login that was
  previous_login:
    login: "{{ prefect_basic_auth_key }}"
    path: /etc/pag/login.conf
    kept: /etc/pag/logins/previous.conf
    hours: 24
  register: __prefect_server_previous
"""

RETURN = r"""
until:
  description: Until when a previous login is valid, as systemd's timers write it (UTC); empty when there is none.
  type: str
  returned: always
  sample: "2026-11-27 12:00:00 UTC"
"""

import base64
import os
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

_ENTRY = re.compile(r'^ *("~\^\[Bb\]asic \+\S+\$") (?:right|replaced);$', re.MULTILINE)
_UNTIL = "# Until "
_FORMAT = "%Y-%m-%d %H:%M:%S UTC"


def entry(text: str) -> str | None:
    """Return what matches a login in a configuration's text; None when there is none."""
    found = _ENTRY.search(text)
    return found[1] if found else None


def entry_of(login: str) -> str:
    """Return what matches a login, as the template writes it."""
    return f'"~^[Bb]asic +{re.escape(base64.b64encode(login.encode()).decode())}$"'


def expiry(text: str) -> datetime | None:
    """Return until when a kept login is valid; None when its text does not say so."""
    first = text.partition("\n")[0]
    try:
        return datetime.strptime(first.removeprefix(_UNTIL), _FORMAT).replace(tzinfo=timezone.utc)
    except ValueError:
        return None


def kept_text(login: str, current: str, kept: str, hours: float, now: datetime) -> str:
    """Return what the file of the kept login has to be from *now* on; empty when there is to be none.

    *current* is the proxy's configuration until now, *kept* the file's text until now.
    """
    before = entry(current)
    if hours <= 0:
        return ""
    if before is not None and before != entry_of(login):
        until = now + timedelta(hours=hours)
        return f"{_UNTIL}{until.strftime(_FORMAT)}\n{before} replaced;\n"
    valid = expiry(kept)
    return kept if valid is not None and now < valid and entry(kept) not in (None, entry_of(login)) else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _write(path: Path, text: str) -> None:
    """Write or remove the file, so that a reader sees the old or the new one."""
    if not text:
        path.unlink()
        return
    new = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)
    new.replace(path)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "login": {"type": "str", "required": True, "no_log": True},
            "path": {"type": "path", "required": True},
            "kept": {"type": "path", "required": True},
            "hours": {"type": "float", "required": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    kept = Path(given["kept"])
    old = _read(kept)
    new = kept_text(given["login"], _read(Path(given["path"])), old, given["hours"], datetime.now(timezone.utc))
    if new != old and not module.check_mode:
        _write(kept, new)
    until = expiry(new) if new else None
    module.exit_json(changed=new != old, until=until.strftime(_FORMAT) if until else "")


if __name__ == "__main__":
    main()
