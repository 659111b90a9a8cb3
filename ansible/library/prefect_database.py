#!/usr/bin/python
"""Ansible module: the schema of a Prefect server's database."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_database
short_description: Bring the schema of the server's database up to date
description:
  - Compares the schema's revision in the database with the newest one of the environment's Prefect, and runs
    C(prefect server database upgrade) when they differ.
options:
  environment:
    description: Directory of the environment, with C(env/) and C(run).
    type: path
    required: true
  environment_file:
    description: File with the server's settings, as systemd reads it.
    type: path
    required: true
  user:
    description: User that the programs run as.
    type: str
    required: true
attributes:
  check_mode:
    support: full
author: pag
"""

EXAMPLES = r"""
- name: Bring the schema up to date
  prefect_database:
    environment: /opt/prefect/envs/prefect-0123456789ab
    environment_file: /etc/prefect/server.env
    user: prefect
"""

RETURN = r"""
needed:
  description: Whether the schema was not the newest.
  type: bool
  returned: always
before:
  description: Revision in the database; none when it is empty.
  type: str
  returned: always
after:
  description: Newest revision of the environment's Prefect; none when it cannot be told.
  type: str
  returned: always
"""

import json
import re
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

# Prints the revision of the database that the settings name. Importing Prefect for that would take seconds.
_ASK = """
import asyncio, asyncpg, json, os

def setting(name):
    return os.environ["PREFECT_SERVER_DATABASE_" + name]

async def main():
    connection = await asyncpg.connect(
        host=setting("HOST"), port=int(setting("PORT")), user=setting("USER"), password=setting("PASSWORD"),
        database=setting("NAME"), timeout=30,
    )
    try:
        if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
            return None
        return await connection.fetchval("SELECT version_num FROM alembic_version")
    finally:
        await connection.close()

print(json.dumps(asyncio.run(main())))
"""

# Alembic's revision files name themselves and the one before them.
_REVISION = re.compile(r"""^(revision|down_revision)\s*(?::[^=]+)?=\s*["']([0-9a-f]+)["']""", re.MULTILINE)
_VERSIONS = "env/lib/python*/site-packages/prefect/server/database/_migrations/versions/postgresql/*.py"


class DatabaseError(Exception):
    """The schema cannot be read or changed; the message is one sentence for the operator."""


def read_environment_file(path: Path) -> dict[str, str]:
    """Return the variables of a file of lines ``NAME="value"`` in systemd's quoting."""
    variables = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith(("#", ";")):
            variables[name.strip()] = re.sub(r"\\(.)", r"\1", value.strip()[1:-1])
    return variables


def newest_revision(environment: Path) -> str | None:
    """Return the revision that no other one follows, None when there is not exactly one."""
    revisions, followed = set(), set()
    for path in environment.glob(_VERSIONS):
        found = dict(_REVISION.findall(path.read_text(encoding="utf-8")))
        revisions.add(found.get("revision"))
        followed.add(found.get("down_revision"))
    newest = revisions - followed - {None}
    return newest.pop() if len(newest) == 1 else None


def run_as(user: str, command: list[str], variables: dict[str, str], what: str) -> str:
    """Run *command* as *user* with only *variables* set and return what it prints. Raises DatabaseError."""
    variables = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"} | variables
    finished = subprocess.run(
        command,
        user=user,
        group=user,
        extra_groups=[],
        env=variables,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode != 0:
        lines = [line for line in finished.stderr.splitlines() if line.strip()] or finished.stdout.splitlines()
        reason = lines[-1].strip() if lines else f"status {finished.returncode}"
        for name, value in variables.items():
            if "PASSWORD" in name or "AUTH" in name:
                reason = reason.replace(value, "***")
        raise DatabaseError(f"{what} ({reason}): look at the database's log, and at postgresql_password.")
    return finished.stdout


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "environment": {"type": "path", "required": True},
            "environment_file": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    environment, settings = Path(module.params["environment"]), Path(module.params["environment_file"])
    user = module.params["user"]
    if module.check_mode and not (settings.exists() and (environment / ".complete").exists()):
        # The tasks before this one would have made them.
        module.exit_json(changed=True, needed=True, before=None, after=None)
    try:
        variables = read_environment_file(settings)
        python = str(environment / "env/bin/python")
        question = "The Prefect server's database does not answer"
        before = json.loads(run_as(user, [python, "-c", _ASK], variables, question))
        after = newest_revision(environment)
        needed = after is None or before != after
        if needed and not module.check_mode:
            command = [str(environment / "run"), "prefect", "server", "database", "upgrade", "-y"]
            run_as(user, command, variables, "The database's schema could not be brought up to date")
    except (DatabaseError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=needed, needed=needed, before=before, after=after)


if __name__ == "__main__":
    main()
