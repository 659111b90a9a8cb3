"""Old runs and logs in a server's database, put there with SQL, for checks and figures of retention."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from machines import Machines

SERVER = "pag-server"
OLD_FLOW, RUNNING = "pag-old-runs", "pag-old-and-running"
"""The flow of all runs, and the name of one that began long ago and has not ended."""

# Each run has its part of the logs.
_INSERT = """
INSERT INTO flow (id, name) VALUES (gen_random_uuid(), '{flow}') ON CONFLICT DO NOTHING;
CREATE TEMPORARY TABLE made AS SELECT gen_random_uuid() AS id, n, now() - interval '{days} days' AS at
  FROM generate_series(1, {runs}) n;
INSERT INTO flow_run (id, name, flow_id, state_type, state_name, start_time, end_time, expected_start_time)
  SELECT made.id, 'old-' || n, flow.id, 'COMPLETED', 'Completed', at - interval '1 minute', at, at - interval '1 minute'
  FROM made, flow WHERE flow.name = '{flow}';
INSERT INTO log (name, level, flow_run_id, message, timestamp)
  SELECT 'prefect.flow_runs', 20, made.id, 'Line ' || l || ' of what the run had to say at great length', at
  FROM made, generate_series(1, {logs} / {runs}) l;
"""
_RUNNING = """
INSERT INTO flow_run (id, name, flow_id, state_type, state_name, start_time, expected_start_time)
  SELECT gen_random_uuid(), '{name}', flow.id, 'RUNNING', 'Running', now() - interval '{days} days',
  now() - interval '{days} days' FROM flow WHERE flow.name = '{flow}';
INSERT INTO log (name, level, flow_run_id, message, timestamp)
  SELECT 'prefect.flow_runs', 20, flow_run.id, 'Still here', now() - interval '{days} days'
  FROM flow_run WHERE flow_run.name = '{name}';
"""
_STATE = """
SELECT json_build_object(
  'old', (SELECT count(*) FROM flow_run WHERE name LIKE 'old-%' AND end_time < now() - interval '90 days'),
  'runs', (SELECT count(*) FROM flow_run), 'logs', (SELECT count(*) FROM log),
  'log_bytes', pg_total_relation_size('log'), 'run_bytes', pg_total_relation_size('flow_run'),
  'dead', (SELECT sum(n_dead_tup) FROM pg_stat_user_tables WHERE relname IN ('log', 'flow_run')),
  'running_logs', (SELECT count(*) FROM log JOIN flow_run r ON r.id = log.flow_run_id WHERE r.name = '{running}'),
  'orphans', (SELECT count(*) FROM log WHERE NOT EXISTS (SELECT FROM flow_run r WHERE r.id = log.flow_run_id))
);
"""


@dataclass(frozen=True)
class OldRuns:
    """The history of the server of one cluster."""

    machines: Machines

    def sql(self, statements: str) -> str:
        """Run statements as the database's administrator and return what they give."""
        command = "sudo -u postgres psql --no-psqlrc -qAt -v ON_ERROR_STOP=1 prefect"
        return self.machines.ssh(SERVER, f"cd / && {command}", stdin=statements)

    def insert(self, runs: int, logs: int, days: int) -> None:
        """Make runs that ended *days* ago, with *logs* log entries between them."""
        self.sql(_INSERT.format(flow=OLD_FLOW, runs=runs, logs=logs, days=days))

    def insert_running(self, days: int) -> None:
        """Make a run that began *days* ago and has not ended, with one log entry."""
        self.sql(_RUNNING.format(name=RUNNING, flow=OLD_FLOW, days=days))

    def state(self) -> dict[str, Any]:
        """Return rows and bytes."""
        return dict(json.loads(self.sql(_STATE.format(running=RUNNING))))

    def built_in(self) -> bool:
        """Return whether the server removes old runs itself."""
        return "pag-retention.timer" not in self.machines.ssh(SERVER, "ls /etc/systemd/system")

    def retain(self, timeout: float) -> float:
        """Have old runs removed and return how many seconds that took; raises TimeoutError."""
        started = time.monotonic()
        if not self.built_in():
            self.machines.ssh(SERVER, "sudo systemctl start pag-retention.service")
            return time.monotonic() - started
        # Once an hour, and when it starts.
        self.machines.ssh(SERVER, "sudo systemctl restart prefect-server")
        while (state := self.state())["old"] or state["orphans"]:
            if time.monotonic() > started + timeout:
                raise TimeoutError(f"Old runs are still there after {timeout} s: {state}")
            time.sleep(1)
        return time.monotonic() - started

    def remove(self) -> None:
        """Remove what was inserted."""
        self.sql(
            "DELETE FROM log USING flow_run r, flow f WHERE r.id = log.flow_run_id AND f.id = r.flow_id "  # noqa: S608
            f"AND f.name = '{OLD_FLOW}'; DELETE FROM flow WHERE name = '{OLD_FLOW}';"
        )
