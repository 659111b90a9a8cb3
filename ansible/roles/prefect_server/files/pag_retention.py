#!/usr/bin/python3
"""Delete old runs and their logs from the database of a Prefect server that has no vacuum of its own.

pag_retention.py --days N [--database NAME] [--batch N] [--pause SECONDS]

Runs that ended more than N days ago go, with their task runs, states, logs and artifacts; runs that have not ended
stay, and so do their logs. Each batch is one transaction, so it can be stopped at any moment and goes on the next time.
Runs as root, and asks the database over its Unix socket as the administrator.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

_FINAL = "('COMPLETED', 'FAILED', 'CRASHED', 'CANCELLED')"
# Logs first, by age: the runs' own transactions are small then.
_LOGS = f"""
WITH old AS (
  SELECT log.id FROM log WHERE log.timestamp < {{limit}} AND NOT EXISTS (
    SELECT FROM flow_run WHERE flow_run.id = log.flow_run_id
    AND (flow_run.state_type IS NULL OR flow_run.state_type NOT IN {_FINAL} OR flow_run.end_time >= {{limit}}))
  LIMIT {{batch}}
), gone AS (DELETE FROM log USING old WHERE log.id = old.id RETURNING log.id)
SELECT count(*) FROM gone;
"""  # noqa: S608
# A run that is part of another one has lost its parent a moment after that went, and goes in a later batch.
_RUNS = f"""
WITH old AS (
  SELECT id FROM flow_run
  WHERE parent_task_run_id IS NULL AND state_type IN {_FINAL} AND end_time < {{limit}}
  ORDER BY id LIMIT {{batch}} FOR UPDATE SKIP LOCKED
), gone AS (DELETE FROM flow_run USING old WHERE flow_run.id = old.id RETURNING flow_run.id),
logs AS (DELETE FROM log USING old WHERE log.flow_run_id = old.id),
artifacts AS (DELETE FROM artifact USING old WHERE artifact.flow_run_id = old.id)
SELECT count(*) FROM gone;
"""  # noqa: S608
# What the UI lists as the newest of its key must be there.
_COLLECTIONS = """
WITH gone AS (
  DELETE FROM artifact_collection c WHERE NOT EXISTS (SELECT FROM artifact a WHERE a.key = c.key) RETURNING c.id
), newest AS (SELECT DISTINCT ON (key) * FROM artifact ORDER BY key, created DESC),
moved AS (
  UPDATE artifact_collection c SET latest_id = n.id, type = n.type, data = n.data, description = n.description,
    metadata_ = n.metadata_, flow_run_id = n.flow_run_id, task_run_id = n.task_run_id, created = n.created,
    updated = n.updated
  FROM newest n WHERE n.key = c.key AND NOT EXISTS (SELECT FROM artifact a WHERE a.id = c.latest_id) RETURNING c.id
)
SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM moved);
"""


class RetentionError(Exception):
    """The database refused something; the message is one sentence for the operator."""


def ask(database: str, statement: str) -> int:
    """Run *statement*, which is one transaction, and return the number that it gives; raises RetentionError."""
    command = ["psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", f"--dbname={database}"]
    finished = subprocess.run(
        [*command, "--set=ON_ERROR_STOP=1"],
        input=statement,
        user="postgres",
        group="postgres",
        extra_groups=[],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        cwd="/",
        capture_output=True,
        text=True,
    )
    if finished.returncode != 0:
        reason = (finished.stderr.strip().splitlines() or ["no reason given"])[0]
        raise RetentionError(
            f"Old runs cannot be deleted from the database {database} ({reason}): look at postgresql.service."
        )
    return int(finished.stdout)


def batches(database: str, statement: str, pause: float) -> Iterator[int]:
    """Run *statement* until it finds nothing more, with *pause* seconds in between; yield how many went each time."""
    while count := ask(database, statement):
        yield count
        time.sleep(pause)


def main(arguments: Sequence[str]) -> int:
    """Delete what is old and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, required=True, help="how long runs are kept after they ended")
    parser.add_argument("--database", default="prefect")
    parser.add_argument("--batch", type=int, default=1000, help="rows of one transaction")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two transactions")
    options = parser.parse_args(arguments)
    if options.days < 1 or options.batch < 1:
        parser.error("--days and --batch are 1 or more")
    limit = f"(now() - interval '{options.days} days')"
    started = time.monotonic()
    try:
        logs, runs = (
            sum(batches(options.database, text.format(limit=limit, batch=options.batch), options.pause))
            for text in (_LOGS, _RUNS)
        )
        ask(options.database, _COLLECTIONS)
    except RetentionError as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f"Deleted {logs} log entries and {runs} runs that ended more than {options.days} days ago, in "
        f"{time.monotonic() - started:.1f} s."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
