"""Write what pag knows of this node as metrics, for the node exporter's textfile collector.

pag-metrics.service runs this. Standard library only, and the modules beside it, which are those of the
playbooks. The format: https://prometheus.io/docs/instrumenting/exposition_formats
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils import node_files, node_units
from ansible.module_utils.prefect_api import PrefectApi, PrefectApiError
from ansible.module_utils.prefect_state import counts, deployments_by_state, limits, pools

_WORKER = "prefect-worker-"
_SETTINGS = Path("/etc/prefect")
_BACKUPS = Path("/var/backups/pag")
_CERTIFICATES = Path("/etc/pag")
_ANSWER_SECONDS = 15.0


class Metrics:
    """Samples by metric, in the order in which the metrics were named first."""

    def __init__(self) -> None:
        self._metrics: dict[str, tuple[str, list[str]]] = {}

    def add(self, name: str, value: float, meaning: str, /, **labels: str) -> None:
        """Add a sample; every metric is a gauge."""
        pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        _, samples = self._metrics.setdefault(name, (meaning, []))
        samples.append(f"{name}{'{' + pairs + '}' if pairs else ''} {_number(value)}")

    def text(self) -> str:
        """Return all of them in Prometheus' text format."""
        lines = []
        for name, (meaning, samples) in self._metrics.items():
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} gauge", *samples]
        return "\n".join(lines) + "\n"


def add_services(metrics: Metrics, settings: Path) -> None:
    """Add units, workers and their runs."""
    drained = node_files.drained(settings)
    units = node_units.show_units()
    # A service of a timer runs for a moment only.
    of_timers = {unit["name"].replace(".timer", ".service") for unit in units if unit["name"].endswith(".timer")}
    for unit in units:
        name = unit["name"]
        if name in of_timers:
            continue
        metrics.add("pag_unit_active", unit["active"] == "active", "Whether a unit is active.", unit=name)
        metrics.add("pag_unit_restarts", unit["restarts"], "How often systemd restarted a unit by itself.", unit=name)
        if name.startswith(_WORKER):
            kind = name.removeprefix(_WORKER).removesuffix(".service")
            runs = len(node_units.runs_of(unit["control_group"]))
            metrics.add("pag_worker_up", unit["active"] == "active", "Whether a worker runs.", kind=kind)
            metrics.add("pag_worker_runs", runs, "Flow runs that a worker has under way.", kind=kind)
            metrics.add("pag_worker_drained", kind in drained, "Whether a worker takes no runs.", kind=kind)
    metrics.add("pag_failed_units", len(node_units.failed_units()), "Units of the node that failed.")


def add_records(metrics: Metrics, home: Path, certificates: Path, backups: Path) -> None:
    """Add environment, file systems, backups, certificates and whether a reboot is needed."""
    environment = node_files.base_environment(home)
    if environment:
        metrics.add("pag_environment_info", 1, "The environment that the services run on.", **environment)
    # The node exporter leaves some kinds of file systems out; these matter whatever they are.
    for disk in node_files.file_systems([str(home), "/var", "/"]):
        labels = {"directory": disk["directories"][0]}
        metrics.add("pag_disk_used_percent", disk["used_percent"], "Used space of a file system.", **labels)
        metrics.add("pag_disk_used_inodes_percent", disk["used_inodes_percent"], "Its used inodes.", **labels)
    now = time.time()
    newest = next(iter(node_files.backups(backups, now)), None)
    if newest:
        metrics.add("pag_backup_age_seconds", newest["age_seconds"], "Age of the newest backup.")
        metrics.add("pag_backup_size_bytes", newest["bytes"], "Size of the newest backup.")
    for certificate in node_files.certificates(certificates, now):
        if certificate["expires_seconds"] is not None:
            metrics.add(
                "pag_certificate_expires_seconds",
                certificate["expires_seconds"],
                "Time until a certificate ends.",
                path=certificate["path"],
            )
    reboot = Path("/run/reboot-required").exists()
    metrics.add("pag_reboot_required", reboot, "Whether packages ask for a reboot.")


def add_prefect(metrics: Metrics, url: str, auth: str) -> None:
    """Add what the server says of its pools, runs, deployments and limits, or that it says nothing."""
    up = "Whether the Prefect server answers."
    api = PrefectApi(url, auth, _ANSWER_SECONDS)
    try:
        now = datetime.now(timezone.utc)
        found: dict[str, Any] = counts(api, now)
        found |= {"pools": pools(api, now), "deployments": deployments_by_state(api), "limits": limits(api)}
    except PrefectApiError as error:
        print(error, file=sys.stderr)
        metrics.add("pag_server_up", 0, up)
        return
    metrics.add("pag_server_up", 1, up)
    for state, count in found["now"].items():
        metrics.add("pag_runs", count, "Flow runs in a state now.", state=state)
    for state, count in found["last_day"].items():
        metrics.add("pag_runs_last_day", count, "Flow runs that ended so within 24 hours.", state=state)
    for pool in found["pools"]:
        name = pool["name"]
        online = sum(worker["online"] for worker in pool["workers"])
        metrics.add("pag_pool_workers_online", online, "Workers of a pool that the server hears of.", pool=name)
        metrics.add("pag_pool_workers", len(pool["workers"]), "Workers of a pool, online or not.", pool=name)
        metrics.add("pag_pool_paused", pool["paused"], "Whether a pool is paused.", pool=name)
        for state, count in pool["runs"].items():
            metrics.add("pag_pool_runs", count, "Flow runs of a pool in a state now.", pool=name, state=state)
    for state, count in found["deployments"].items():
        metrics.add("pag_deployments", count, "Deployments by state.", state=state)
    for limit in found["limits"]:
        metrics.add("pag_limit_slots", limit["limit"], "Slots of a global limit.", limit=limit["name"])
        metrics.add("pag_limit_slots_taken", limit["active_slots"], "Those that are taken.", limit=limit["name"])


def write(path: Path, text: str) -> None:
    """Write a file for everybody to read; at every moment there is the old one or the new one."""
    # The collector reads *.prom only.
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".pag-", delete=False, encoding="utf-8") as stream:
        stream.write(text)
    new = Path(stream.name)
    new.chmod(0o644)
    new.replace(path)


def _number(value: float) -> str:
    number = float(value)
    return str(int(number)) if number.is_integer() else repr(number)


def _escaped(text: str) -> str:
    return str(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def main() -> None:
    """Look, and write."""
    parser = argparse.ArgumentParser(description="Write pag's metrics of this node.")
    parser.add_argument("--home", type=Path, required=True, help="home of the service user")
    parser.add_argument("--backups", type=Path, default=_BACKUPS, help="the directory of the server's backups")
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    parser.add_argument(
        "--server", action="store_true", help="ask the Prefect server that the variables PREFECT_API_* name"
    )
    options = parser.parse_args()
    metrics = Metrics()
    add_services(metrics, _SETTINGS)
    add_records(metrics, options.home, _CERTIFICATES, options.backups)
    if options.server:
        variables = os.environ
        add_prefect(metrics, variables.get("PREFECT_API_URL", ""), variables.get("PREFECT_API_AUTH_STRING", ""))
    metrics.add("pag_metrics_written_seconds", time.time(), "When this was written, in seconds since 1970.")
    write(options.output, metrics.text())


if __name__ == "__main__":
    main()
