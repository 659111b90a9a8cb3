#!/usr/bin/python3
"""Back up the Prefect server of this machine: its database, its settings, and what is deployed.

Reads /etc/pag/backup.json, or the file that is given. Runs as root; the database is asked over its Unix socket as the
administrator, so no password is needed. Ends with 0 when a whole, verified backup is there, and else with one sentence
and everything as it was. The outcome is in last.json beside the backups as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, cast

from server_backup import (
    DUMP,
    FORMAT_VERSION,
    MANIFEST,
    NAME_FORMAT,
    PARTIAL_PREFIX,
    BackupError,
    describe,
    flush,
    load,
    names,
    prune,
    sweep,
)

CONFIGURATION = Path("/etc/pag/backup.json")

# Without one of these, a dump is none of a Prefect server.
_NEEDED_TABLES = (
    "alembic_version",
    "block_document",
    "concurrency_limit_v2",
    "configuration",
    "deployment",
    "deployment_schedule",
    "flow",
    "flow_run",
    "variable",
    "work_pool",
)
# Rows of these are counted, for people, and for whoever restores.
_COUNTED_TABLES = (
    "automation",
    "block_document",
    "concurrency_limit_v2",
    "deployment",
    "deployment_schedule",
    "flow",
    "flow_run",
    "log",
    "task_run",
    "variable",
    "work_pool",
)
_TABLE_DATA = re.compile(r"^\d+; \d+ \d+ TABLE DATA public (\S+) ", re.MULTILINE)
_PREFECT = re.compile(r"prefect-(?P<version>\d[^-]*)\.dist-info")
# Beside the dump: settings, definitions, lists; and what others write meanwhile.
_MARGIN = 64 << 20
# A dump grows with the database; the last one tells how large one is, with this much room for growth.
_GROWTH = 1.25
_DEFINITIONS = """
SELECT coalesce(jsonb_agg(jsonb_build_object(
    'flow', flow.name,
    'deployment', to_jsonb(deployment),
    'schedules', (SELECT coalesce(jsonb_agg(to_jsonb(s)), '[]') FROM deployment_schedule s
                  WHERE s.deployment_id = deployment.id)
) ORDER BY flow.name, deployment.name), '[]')
FROM deployment JOIN flow ON flow.id = deployment.flow_id
"""


@dataclass(frozen=True)
class Configuration:
    """What is backed up, where to, and how many backups are kept."""

    directory: Path
    keep: int
    database: str
    database_user: str
    """System user and role that may read all of the database."""
    settings: Path
    """The services' settings: /etc/prefect."""
    environment: Path
    """The environment that the server runs on."""
    environments: Path
    """Descriptions of environments."""
    bundle: dict[str, str]
    """Version and digest of the bundle that was installed last."""

    @classmethod
    def read(cls, path: Path) -> Configuration:
        """Return what the file at *path* says; raises BackupError."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            for name in ("directory", "settings", "environment", "environments"):
                content[name] = Path(content[name])
            return cls(**content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BackupError(f"{path} cannot be read ({error}): run main.yml --tags prefect-server.") from error


class Database:
    """One look at the database: everything that is asked through it, the dump too, is of the same moment."""

    def __init__(self, name: str, user: str) -> None:
        """Connect to the database *name* over the Unix socket as *user*; raises BackupError."""
        self._name, self._user = name, user
        self._session = subprocess.Popen(
            [
                "psql",
                "--no-psqlrc",
                "--quiet",
                "--tuples-only",
                "--no-align",
                f"--dbname={name}",
                "--set=ON_ERROR_STOP=1",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **self._as_user(),
        )
        # Pipes, because that was asked for.
        self._input = cast("IO[str]", self._session.stdin)
        self._output, self._errors = cast("IO[str]", self._session.stdout), cast("IO[str]", self._session.stderr)
        self._tell("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;")
        self.snapshot = self.ask("SELECT pg_export_snapshot()")

    def close(self) -> None:
        """Let go of the moment; a second time does nothing."""
        if not self._input.closed:
            with contextlib.suppress(BrokenPipeError):
                # What psql reads ends, and with it psql. It is another user's process, so it is not killed.
                self._input.close()
            self._session.wait()

    def ask(self, query: str) -> str:
        """Return the one value that *query* gives, a text of one line; raises BackupError."""
        self._tell(f"{' '.join(query.split())};")
        answer = self._output.readline()
        if not answer:
            self.close()
            reason = _last_line(self._errors.read())
            raise BackupError(f"The database {self._name} cannot be read ({reason}): look at postgresql.service.")
        return answer.rstrip("\n")

    def dump(self, path: Path) -> None:
        """Write the database in PostgreSQL's custom format to *path*; raises BackupError."""
        # The file is opened here: the database's administrator cannot write where backups are.
        with path.open("wb") as stream:
            command = ["pg_dump", "--format=custom", f"--snapshot={self.snapshot}", f"--dbname={self._name}"]
            finished = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, text=True, **self._as_user())
        if finished.returncode != 0:
            raise BackupError(
                f"pg_dump failed ({_last_line(finished.stderr)}): look at postgresql.service and the disk."
            )

    def _tell(self, text: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # the answer tells why
            self._input.write(f"{text}\n")
            self._input.flush()

    def _as_user(self) -> dict[str, Any]:
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
        return {"user": self._user, "group": self._user, "extra_groups": [], "cwd": "/", "env": environment}


def back_up(configuration: Configuration) -> dict[str, Any]:
    """Make a backup, remove those that are too many, and return its manifest; raises BackupError, OSError."""
    started = time.monotonic()
    with _alone(configuration.directory):
        sweep(configuration.directory, PARTIAL_PREFIX)
        database = Database(configuration.database, configuration.database_user)
        partial = None
        try:
            size = int(database.ask("SELECT pg_database_size(current_database())"))
            _check_room(configuration.directory, int(database.ask(_TABLES_SIZE)), size)
            name = _new_name(configuration.directory)
            partial = configuration.directory / f"{PARTIAL_PREFIX}{name}"
            partial.mkdir(mode=0o700)
            database.dump(partial / DUMP)
            check_dump(partial / DUMP)
            manifest = {
                "format_version": FORMAT_VERSION,
                "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "host": os.uname().nodename,
                "prefect": prefect_version(configuration.environment),
                "postgresql": database.ask("SHOW server_version").split()[0],
                "schema_revision": database.ask("SELECT version_num FROM alembic_version"),
                "bundle": configuration.bundle,
                "encryption_key": _encryption_key(configuration.settings, database),
                "database_bytes": size,
                "rows": {table: int(database.ask(f"SELECT count(*) FROM {table}")) for table in _COUNTED_TABLES},  # noqa: S608
            }
            _write_json(partial / "deployments.json", json.loads(database.ask(_DEFINITIONS)))
            database.close()
            _write_json(partial / "environments.json", _environments(configuration))
            shutil.copytree(configuration.settings, partial / "settings", symlinks=True)
            manifest["seconds"] = round(time.monotonic() - started, 1)
            manifest["files"] = describe(partial)
            _write_json(partial / MANIFEST, manifest)
            flush(partial)
            load(partial)
            partial.rename(configuration.directory / name)
        except BaseException:
            if partial is not None:
                shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            database.close()
        removed = prune(configuration.directory, configuration.keep)
    return {**manifest, "name": name, "removed": removed}


def check_dump(path: Path) -> None:
    """Have every byte of the dump at *path* read, and the tables listed; raises BackupError."""
    for options in (["--list"], ["--file=/dev/null"]):
        # Through standard input: this runs as root, whose file it is, and no database is touched.
        with path.open("rb") as stream:
            finished = subprocess.run(["pg_restore", *options], stdin=stream, capture_output=True, text=True)
        if finished.returncode != 0:
            raise BackupError(f"{path} cannot be read back ({_last_line(finished.stderr)}): is the disk sound?")
        if options == ["--list"]:
            missing = sorted(set(_NEEDED_TABLES) - set(_TABLE_DATA.findall(finished.stdout)))
            if missing:
                raise BackupError(f"The dump has no table {', '.join(missing)}: is that the Prefect server's database?")


def prefect_version(environment: Path) -> str:
    """Return the version of Prefect in *environment*; raises BackupError."""
    for path in environment.glob("env/lib/python*/site-packages/prefect-*.dist-info"):
        if match := _PREFECT.fullmatch(path.name):
            return match["version"]
    raise BackupError(f"There is no Prefect in {environment}: run main.yml --tags prefect-server.")


# Indexes are not in a dump.
_TABLES_SIZE = """
SELECT coalesce(sum(pg_table_size(c.oid)), 0) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname = 'public'
"""


def _check_room(directory: Path, tables: int, database: int) -> None:
    """Raise BackupError when a dump of *tables* bytes of tables, out of *database* bytes, would not fit."""
    wanted = float(tables)
    for name in reversed(names(directory)):
        with contextlib.suppress(OSError, ValueError, KeyError, ZeroDivisionError):
            last = json.loads((directory / name / MANIFEST).read_text(encoding="utf-8"))
            size = sum(entry["size"] for entry in last["files"] if entry["path"] == DUMP)
            wanted = min(wanted, size / last["database_bytes"] * database * _GROWTH)
            break
    needed = int(wanted) + _MARGIN
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise BackupError(
            f"{directory} has {free >> 20} MiB free and the backup may take {needed >> 20} MiB: free some, or set "
            "backup_directory or backup_keep."
        )


def _encryption_key(settings: Path, database: Database) -> dict[str, str]:
    """Return where the key is that secret blocks are encrypted with, and its digest when it is not in the database."""
    for path in settings.glob("server.env"):
        match = re.search(r'^PREFECT_SERVER_ENCRYPTION_KEY="(.*)"$', path.read_text(encoding="utf-8"), re.MULTILINE)
        if match:
            return {"place": "settings", "sha256": hashlib.sha256(match[1].encode()).hexdigest()}
    stored = database.ask("SELECT count(*) FROM configuration WHERE key = 'ENCRYPTION_KEY'")
    return {"place": "database" if int(stored) else "none yet"}


def _environments(configuration: Configuration) -> dict[str, Any]:
    """Return the environments of this machine: their directories, and their descriptions with digests."""
    installed = configuration.environment.resolve().parent
    descriptions = sorted(configuration.environments.glob("*.json"))
    return {
        "in_use": configuration.environment.resolve().name,
        "installed": sorted(path.parent.name for path in installed.glob("*/.complete")),
        "descriptions": {
            path.name: json.loads(path.read_text(encoding="utf-8")).get("digest", "") for path in descriptions
        },
    }


def _new_name(directory: Path) -> str:
    """Return a name for a backup that is made now, later than all that are there."""
    second = time.strftime(NAME_FORMAT, time.gmtime())
    # Older ones of the same second may be gone already, and their names are not used again.
    last = max((name for name in names(directory) if name.startswith(second)), default="")
    if not last:
        return second
    return f"{second}-{int(last.removeprefix(second).lstrip('-') or 1) + 1}"


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, which the kernel gives back however this ends; raises BackupError when it is taken."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (directory / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError("Another backup is under way: wait for it.") from None
        yield


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"


def _remember(configuration: Configuration, outcome: dict[str, Any], errors: IO[str]) -> None:
    """Write how it went to last.json; a disk that is full has had its sentence already."""
    temporary = configuration.directory / ".last.json"
    try:
        _write_json(temporary, {"at": datetime.now(timezone.utc).isoformat(timespec="seconds"), **outcome})
        temporary.replace(configuration.directory / "last.json")
    except OSError as error:
        print(f"The outcome cannot be written down: {error}.", file=errors)


def main(arguments: Sequence[str]) -> int:
    """Make a backup and return the exit code."""
    os.umask(0o077)
    configuration = None
    try:
        configuration = Configuration.read(Path(arguments[0]) if arguments else CONFIGURATION)
        made = back_up(configuration)
    except (BackupError, OSError, ValueError) as error:
        message = str(error) if isinstance(error, BackupError) else f"The backup failed ({error}): is the disk full?"
        print(message, file=sys.stderr)
        if configuration is not None:
            _remember(configuration, {"succeeded": False, "message": message}, sys.stderr)
        return 1
    size = sum(entry["size"] for entry in made["files"])
    message = (
        f"{configuration.directory / made['name']} has {size} bytes, made and verified in {made['seconds']} s: "
        f"{made['rows']['deployment']} deployments, {made['rows']['flow_run']} runs."
    )
    print(message)
    _remember(configuration, {"succeeded": True, "message": message, "name": made["name"], "size": size}, sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
