#!/usr/bin/python
"""Ansible module: the schema of a Prefect server's database."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_database
short_description: Bring the schema of the server's database to the one of an environment's Prefect
description:
  - Compares the schema's revision in the database with the newest one of the environment's Prefect, and runs
    C(prefect server database upgrade) when the database's is older.
  - A schema of a newer Prefect is refused, unless O(downgrade_with) names an environment that knows it; then that one's
    C(prefect server database downgrade) is run.
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
  password:
    description: Password of the database role, where it is newer than the one in O(environment_file).
    type: str
  host:
    description: Where the database is now, when O(environment_file) says something else; a socket's directory too.
    type: str
  downgrade_with:
    description: Directory of an environment whose newer Prefect can bring the schema back. Empty for none.
    type: path
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

- name: Bring it back to what an older Prefect knows
  prefect_database:
    environment: /opt/prefect/envs/prefect-0123456789ab
    environment_file: /etc/prefect/server.env
    user: prefect
    downgrade_with: /opt/prefect/envs/prefect-ba9876543210
"""

RETURN = r"""
needed:
  description: Whether the schema was another one than the environment's.
  type: bool
  returned: always
direction:
  description: C(none), C(upgrade) or C(downgrade).
  type: str
  returned: always
before:
  description: Revision in the database; none when it is empty.
  type: str
  returned: always
after:
  description: Newest revision of the environment's Prefect; none when it cannot be told.
  type: str
  returned: always
size:
  description: Bytes that the database takes on its disk; none when it was not asked.
  type: int
  returned: always
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

# Prints revision and size of the database that the settings name. Importing Prefect for that would take seconds.
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
        size = await connection.fetchval("SELECT pg_database_size(current_database())")
        empty = await connection.fetchval("SELECT to_regclass('alembic_version')") is None
        return [None if empty else await connection.fetchval("SELECT version_num FROM alembic_version"), size]
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


def revisions(environment: Path) -> tuple[set[str], str | None]:
    """Return all revisions that the environment's Prefect knows, and the one that no other one follows.

    The second is None when there is not exactly one.
    """
    known, followed = set(), set()
    for path in environment.glob(_VERSIONS):
        found = dict(_REVISION.findall(path.read_text(encoding="utf-8")))
        known.add(found.get("revision", ""))
        followed.add(found.get("down_revision", ""))
    known.discard("")
    newest = known - followed
    return known, newest.pop() if len(newest) == 1 else None


def direction(before: str | None, environment: Path, downgrade_with: Path | None) -> str:
    """Return how the schema with the revision *before* becomes the environment's: none, upgrade or downgrade.

    Raises DatabaseError for a schema of a newer Prefect that *downgrade_with* cannot bring back.
    """
    known, newest = revisions(environment)
    if before is not None and before == newest:
        return "none"
    if before is None or before in known or not known:
        return "upgrade"
    if downgrade_with is None:
        raise DatabaseError(
            f"The database has the schema of a newer Prefect (revision {before}) than the one in {environment.name}, "
            "and nothing was changed: go back with rollback.yml, or install the newer bundle on the controller again"
        )
    if not {before, newest} <= revisions(downgrade_with)[0]:
        raise DatabaseError(
            f"The Prefect in {downgrade_with.name} cannot bring the schema from revision {before} back to {newest}: "
            "bring the upgrade's backup back with rollback.yml -e rollback_database=restore"
        )
    return "downgrade"


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
            if "PASSWORD" in name or "AUTH" in name or "CONNECTION_URL" in name:
                reason = reason.replace(value, "***")
        raise DatabaseError(f"{what} ({reason}): look at the database's log, and at postgresql_password")
    return finished.stdout


def run(module: AnsibleModule) -> dict[str, Any]:
    """Compare, and change what differs; return the module's result. Raises DatabaseError and OSError."""
    environment, settings = Path(module.params["environment"]), Path(module.params["environment_file"])
    older = module.params["downgrade_with"]
    user = module.params["user"]
    variables = read_environment_file(settings)
    if module.params["password"]:
        variables["PREFECT_SERVER_DATABASE_PASSWORD"] = module.params["password"]
    if module.params["host"]:
        variables["PREFECT_SERVER_DATABASE_HOST"] = module.params["host"]
    python = str(environment / "env/bin/python")
    before, size = json.loads(
        run_as(user, [python, "-c", _ASK], variables, "The Prefect server's database does not answer")
    )
    way = direction(before, environment, Path(older) if older else None)
    after = revisions(environment)[1]
    if way != "none" and not module.check_mode:
        command = [f"{environment}/run", "prefect", "server", "database", "upgrade", "-y"]
        failure = "The database's schema could not be brought up to date"
        if way == "downgrade":
            command = [f"{older}/run", "prefect", "server", "database", "downgrade", "-y", "-r", str(after)]
            failure = f"The database's schema could not be brought back to revision {after}"
        run_as(user, command, variables, failure)
    needed = way != "none"
    return {
        "changed": needed, "needed": needed, "direction": way, "before": before, "after": after, "size": size,
    }  # fmt: skip


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "environment": {"type": "path", "required": True},
            "environment_file": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "password": {"type": "str", "no_log": True},
            "host": {"type": "str"},
            "downgrade_with": {"type": "path"},
        },
        supports_check_mode=True,
    )
    environment, settings = Path(module.params["environment"]), Path(module.params["environment_file"])
    if module.check_mode and not (settings.exists() and (environment / ".complete").exists()):
        # The tasks before this one would have made them.
        module.exit_json(changed=True, needed=True, direction="upgrade", before=None, after=None, size=None)
    try:
        module.exit_json(**run(module))
    except (DatabaseError, OSError) as error:
        module.fail_json(msg=f"{error}.")


if __name__ == "__main__":
    main()
