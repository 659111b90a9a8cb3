#!/usr/bin/python
"""Ansible module: put the database of a backup in the place of the server's."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_restore
short_description: Restore the Prefect server's database from a backup
description:
  - Loads the dump into a database of its own, compares the rows with the backup's manifest, and only then stops the
    server and exchanges the two databases in one transaction. Killed at any moment and run again, it goes on.
  - Slots of concurrency limits are free afterwards, and runs that a schedule had planned for a time that has passed are
    dropped, because nobody knows whether they have run.
options:
  backup:
    description: Directory of the backup, on this machine.
    type: path
    required: true
  database:
    description: Name of the database. It must exist.
    type: str
    required: true
  owner:
    description: Role that owns it; for the state C(restored).
    type: str
  environment:
    description: The environment that the server will run on; it must know the schema of the dump. For C(restored).
    type: path
  state_directory:
    description: The server's own files; for C(restored).
    type: path
  over:
    description: Whether a database that holds flows, variables or blocks may be replaced.
    type: bool
    default: false
  keep_missed:
    description: Whether planned runs whose time has passed are kept; workers then start all of them at once.
    type: bool
    default: false
  resumable:
    description:
      - Whether a second call with the same backup finds it restored, until one with the state C(finished).
    type: bool
    default: false
  state:
    description:
      - C(restored) exchanges the databases. C(replaceable) only asks whether that may be done. C(finished) forgets that
        a restoration was under way, once the server runs.
    type: str
    choices: [replaceable, restored, finished]
    default: restored
attributes:
  check_mode:
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Restore the database
  prefect_restore:
    backup: /var/backups/pag/2026-11-20T021500Z
    database: prefect
    owner: prefect
    environment: /opt/prefect/pixi-env
    state_directory: /var/lib/prefect-server
"""

RETURN = r"""
occupied:
  description: Whether the database held something before.
  type: bool
  returned: success
missed:
  description: How many planned runs were dropped because their time has passed.
  type: int
  returned: success
seconds:
  description: How long it took.
  type: float
  returned: success
"""

import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils import postgres
from ansible.module_utils.postgres import PostgresError, identifier, literal
from ansible.module_utils.server_backup import Backup, BackupError, load

_UNIT = "prefect-server.service"
_ADMINISTRATION = "postgres"
# A database with rows in one of these is somebody's.
_OCCUPYING = ("flow", "flow_run", "variable", "block_document")
_ATTEMPTS = 5
_VERSIONS = "env/lib/python*/site-packages/prefect/server/database/_migrations/versions/postgresql/*.py"
_REVISION = re.compile(r"""^revision\s*(?::[^=]+)?=\s*["']([0-9a-f]+)["']""", re.MULTILINE)


class RestoreError(Exception):
    """The backup cannot be restored here; the message is one sentence for the operator."""


def marker(backup: Backup) -> str:
    """Return the comment of a database that came from *backup* while the rest of the server is not there yet."""
    digest = next(entry["sha256"] for entry in backup.manifest["files"] if entry["path"] == backup.dump.name)
    return f"pag: restoration of {digest} is under way"


def comment(database: str) -> str:
    """Return the comment of *database*; raises PostgresError."""
    return postgres.value(
        _ADMINISTRATION,
        f"SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = {literal(database)};",  # noqa: S608
    )


def occupied(database: str) -> bool:
    """Return whether *database* holds what somebody made; raises PostgresError."""
    there = postgres.value(
        _ADMINISTRATION,
        f"SELECT 1 FROM pg_database WHERE datname = {literal(database)};",  # noqa: S608
    )
    if not there or not postgres.value(database, "SELECT to_regclass('public.flow_run');"):
        return False
    tests = " OR ".join(f"EXISTS (SELECT FROM {table})" for table in _OCCUPYING)
    return postgres.value(database, f"SELECT {tests};") == "t"


def check(backup: Backup, environment: Path) -> None:
    """Raise RestoreError when this machine's programs are too old for *backup*."""
    known = {
        match[1]
        for path in environment.glob(_VERSIONS)
        if (match := _REVISION.search(path.read_text(encoding="utf-8")))
    }
    manifest = backup.manifest
    if manifest["schema_revision"] not in known:
        raise RestoreError(
            f"The backup's schema {manifest['schema_revision']} (Prefect {manifest['prefect']}) is not known to the "
            f"Prefect in {environment}: install a bundle with Prefect {manifest['prefect']} or newer."
        )
    version = postgres.value(_ADMINISTRATION, "SHOW server_version;").split()[0]
    if int(manifest["postgresql"].split(".")[0]) > int(version.split(".")[0]):
        raise RestoreError(
            f"The backup is of PostgreSQL {manifest['postgresql']}, and here is {version}, which cannot read it: "
            "restore it on a machine of that release."
        )


def fill(backup: Backup, database: str, owner: str, *, keep_missed: bool) -> int:
    """Load *backup* into the new *database* and return how many missed runs were dropped.

    Raises PostgresError, and RestoreError when the rows are not those of the manifest.
    """
    quoted, owned = identifier(database), identifier(owner)
    postgres.query(_ADMINISTRATION, f"DROP DATABASE IF EXISTS {quoted};")
    postgres.query(
        _ADMINISTRATION,
        f"CREATE DATABASE {quoted} OWNER {owned} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' "
        "LC_CTYPE 'C.UTF-8';",
    )
    with backup.dump.open("rb") as stream:
        postgres.run(
            ["pg_restore", "--exit-on-error", "--no-owner", f"--role={owner}", f"--dbname={database}"], stdin=stream
        )
    for table, expected in backup.manifest["rows"].items():
        found = int(postgres.value(database, f"SELECT count(*) FROM {identifier(table)};"))  # noqa: S608
        if found != expected:
            raise RestoreError(f"The table {table} has {found} rows and not {expected}: take another backup.")
    # Who held slots is not known any more; see docs/operations.md.
    postgres.query(
        database, "UPDATE concurrency_limit_v2 SET active_slots = 0; UPDATE concurrency_limit SET active_slots = '[]';"
    )
    missed = 0
    if not keep_missed:
        missed = len(
            postgres.query(
                database,
                "DELETE FROM flow_run WHERE state_type = 'SCHEDULED' AND auto_scheduled "
                "AND next_scheduled_start_time < now() RETURNING id;",
            )
        )
    postgres.query(database, "ANALYZE;")
    return missed


def exchange(database: str, new: str, old: str, text: str | None) -> None:
    """Put the database *new* in the place of *database*, commented with *text*, and the latter aside as *old*."""
    others = f"SELECT pid FROM pg_stat_activity WHERE datname IN ({literal(database)}, {literal(new)})"  # noqa: S608
    statements = (
        f"SELECT pg_terminate_backend(pid) FROM ({others}) AS other;"  # noqa: S608
        "BEGIN;"
        f"ALTER DATABASE {identifier(database)} RENAME TO {identifier(old)};"
        f"ALTER DATABASE {identifier(new)} RENAME TO {identifier(database)};"
        f"COMMENT ON DATABASE {identifier(database)} IS {literal(text) if text else 'NULL'};"
        "COMMIT;"
    )
    for attempt in range(_ATTEMPTS):
        try:
            postgres.query(_ADMINISTRATION, statements)
            return
        except PostgresError:
            # Somebody came in between, or is still on the way out.
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(1)


def restore(parameters: dict[str, Any], backup: Backup) -> int:
    """Exchange the databases and return how many missed runs were dropped; raises PostgresError, RestoreError."""
    database = parameters["database"]
    new, old = f"{database}_restoring", f"{database}_replaced"
    check(backup, Path(parameters["environment"]))
    missed = fill(backup, new, parameters["owner"], keep_missed=parameters["keep_missed"])
    stopped = subprocess.run(["systemctl", "stop", _UNIT], capture_output=True, text=True)
    if stopped.returncode != 0 and "not loaded" not in stopped.stderr:
        raise RestoreError(f"{_UNIT} cannot be stopped ({stopped.stderr.strip()}): see journalctl -u {_UNIT}.")
    # Leases are for slots of the database that goes.
    shutil.rmtree(Path(parameters["state_directory"]) / "concurrency_leases", ignore_errors=True)
    postgres.query(_ADMINISTRATION, f"DROP DATABASE IF EXISTS {identifier(old)};")
    exchange(database, new, old, marker(backup) if parameters["resumable"] else None)
    return missed


def clean(database: str) -> None:
    """Remove what a restoration put aside, also one that was cut short; raises PostgresError."""
    for name in (f"{database}_restoring", f"{database}_replaced"):
        postgres.query(_ADMINISTRATION, f"DROP DATABASE IF EXISTS {identifier(name)};")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "backup": {"type": "path", "required": True},
            "database": {"type": "str", "required": True},
            "owner": {"type": "str"},
            "environment": {"type": "path"},
            "state_directory": {"type": "path"},
            "over": {"type": "bool", "default": False},
            "keep_missed": {"type": "bool", "default": False},
            "resumable": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["replaceable", "restored", "finished"], "default": "restored"},
        },
        required_if=[("state", "restored", ("owner", "environment", "state_directory"))],
        supports_check_mode=True,
    )
    parameters, database = module.params, module.params["database"]
    asks = module.check_mode or parameters["state"] == "replaceable"
    started, missed = time.monotonic(), 0
    try:
        if asks and shutil.which("psql") is None:
            # Later, the tasks before this one will have installed it.
            module.exit_json(changed=parameters["state"] == "restored", occupied=False, missed=0, seconds=0.0)
        if parameters["state"] == "finished":
            remains = bool(comment(database))
            if remains and not module.check_mode:
                postgres.query(_ADMINISTRATION, f"COMMENT ON DATABASE {identifier(database)} IS NULL;")
            module.exit_json(changed=remains, occupied=False, missed=0, seconds=0.0)
        # Before the backup was brought here, nothing can have been restored from it.
        brought = Path(parameters["backup"]).is_dir()
        backup = None if asks and not brought else load(Path(parameters["backup"]))
        resumed = backup is not None and comment(database) == marker(backup)
        if not resumed and not asks:
            clean(database)
        full = not resumed and occupied(database)
        if full and not parameters["over"]:
            raise RestoreError(
                f"The database {database} holds flows, runs, variables or blocks: add -e restore_over=true to replace "
                "it, which first backs up what is there."
            )
        if backup is not None and not asks:
            missed = 0 if resumed else restore(parameters, backup)
            clean(database)
    except (RestoreError, BackupError) as error:
        module.fail_json(msg=str(error))
    except (PostgresError, OSError, ValueError) as error:
        module.fail_json(
            msg=f"The database cannot be restored ({error}), and the one that was there is as it was: look at "
            "postgresql.service and the disk."
        )
    module.exit_json(
        changed=not resumed and parameters["state"] == "restored",
        occupied=full,
        missed=missed,
        seconds=round(time.monotonic() - started, 1),
    )


if __name__ == "__main__":
    main()
