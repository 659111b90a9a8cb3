"""Judge how a cluster is by what its nodes and its server say: problems, and what is worth knowing.

Standard library only. A problem makes ``status.yml`` fail; a notice does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_WORKER = "prefect-worker-"
_SERVER_UNITS = ("postgresql.service", "prefect-server.service", "nginx.service")
# A run that is younger may have begun after its node was looked at.
_YOUNG_SECONDS = 60
# A unit that systemd restarted this often, the last time this short ago, does not get to its feet.
_RESTARTS = 3
_RESTART_SECONDS = 600
_NAMED = 3
_UPGRADE_ENDS = ("finished", "rolled back")


@dataclass(frozen=True)
class Limits:
    """From where on something is a problem."""

    disk_free_percent: float = 10
    """Free space and inodes of a file system, below."""
    memory_available_percent: float = 5
    """Below."""
    clock_seconds: float = 30
    """Difference to the controller's clock, above."""
    backup_seconds: float = 2 * 86400
    """Age of the newest backup, above."""
    certificate_seconds: float = 30 * 86400
    """Time until a certificate ends, below."""


@dataclass
class Findings:
    """What was found, as pairs of where and a sentence."""

    problems: list[dict[str, str]] = field(default_factory=list)
    notices: list[dict[str, str]] = field(default_factory=list)

    def problem(self, where: str, what: str) -> None:
        """Add what makes the cluster not well."""
        self.problems.append({"where": where, "what": what})

    def notice(self, where: str, what: str) -> None:
        """Add what is worth knowing."""
        self.notices.append({"where": where, "what": what})


def assess(
    nodes: Sequence[Mapping[str, Any]],
    prefect: Mapping[str, Any] | None,
    bundle: Mapping[str, Any] | None,
    limits: Limits,
) -> Findings:
    """Return the problems and notices of *nodes*, the server *prefect* (None: it was not asked) and the *bundle*.

    A node has ``name``, ``server`` (whether it is to be one), ``workers`` (kinds that it is to run), ``pools`` (by
    kind), ``reachable``, ``reason`` and, if it is reachable, ``state`` as of the module node_status.
    """
    findings = Findings()
    if bundle is None:
        findings.problem("controller", "no bundle is installed: run install-pag-controller.sh.")
    for node in nodes:
        if not node["reachable"]:
            findings.problem(node["name"], f"cannot be reached: {node['reason']}")
        elif is_empty(node):
            findings.problem(node["name"], "nothing is installed yet: run main.yml.")
        else:
            _assess_services(node, findings)
            _assess_machine(node, limits, findings)
            _assess_records(node, bundle, limits, findings)
    # Where the server is still to be installed, that is said already.
    if prefect is not None and not any(node["server"] and is_empty(node) for node in nodes):
        _assess_prefect(nodes, prefect, findings)
    return findings


def is_empty(node: Mapping[str, Any]) -> bool:
    """Return whether nothing of what a node is to have is installed there."""
    if not node["reachable"] or node["state"]["environment"] is not None:
        return False
    return not {unit["name"] for unit in node["state"]["units"]} & set(expected_units(node))


def expected_units(node: Mapping[str, Any]) -> list[str]:
    """Return the units that a node is to run."""
    return [*(_SERVER_UNITS if node["server"] else ()), *(f"{_WORKER}{kind}.service" for kind in node["workers"])]


def _assess_services(node: Mapping[str, Any], findings: Findings) -> None:
    name, state = node["name"], node["state"]
    units = {unit["name"]: unit for unit in state["units"]}
    for expected in expected_units(node):
        unit = units.get(expected)
        kind = expected.removeprefix(_WORKER).removesuffix(".service")
        if expected.startswith(_WORKER) and kind in state["drained"]:
            runs = len(state["runs"].get(expected, []))
            findings.notice(name, f"its {kind} worker is drained{f', {runs} runs are ending' if runs else ''}.")
        elif unit is None:
            findings.problem(name, f"{expected} is not installed: run main.yml.")
        elif unit["active"] != "active":
            findings.problem(
                name,
                f"{expected} is {unit['active']} ({unit['sub']}{_since(unit)}): look at journalctl -u {expected}, "
                "and start it.",
            )
        elif unit["restarts"] >= _RESTARTS and (unit["since_seconds"] or 0) < _RESTART_SECONDS:
            findings.problem(
                name,
                f"{expected} was restarted {unit['restarts']} times{_since(unit)}: look at journalctl -u {expected}.",
            )
    for unit in units.values():
        if unit["reload_needed"]:
            findings.notice(name, f"{unit['name']} runs with an older unit file than the one on disk.")
    for failed in sorted(set(state["failed_units"]) - set(expected_units(node))):
        findings.problem(name, f"{failed} failed: look at systemctl status {failed}.")


def _assess_machine(node: Mapping[str, Any], limits: Limits, findings: Findings) -> None:
    name, state = node["name"], node["state"]
    for disk in state["disks"]:
        where = ", ".join(disk["directories"])
        for what, used in (("space", disk["used_percent"]), ("inodes", disk["used_inodes_percent"])):
            if 100 - used < limits.disk_free_percent:
                findings.problem(name, f"{used} % of the {what} below {where} is used: make room.")
    memory = state["memory"]
    available = 100 * memory["available_bytes"] / memory["bytes"]
    if available < limits.memory_available_percent:
        findings.problem(name, f"{available:.0f} % of its memory is left: look which runs take it.")
    if abs(state["clock_seconds"]) > limits.clock_seconds:
        findings.problem(name, f"its clock differs by {state['clock_seconds']:.0f} s from the controller's: set it.")
    for reason in state["reboot"]:
        findings.notice(name, f"needs a reboot: {reason}.")


def _assess_records(
    node: Mapping[str, Any], bundle: Mapping[str, Any] | None, limits: Limits, findings: Findings
) -> None:
    name, state = node["name"], node["state"]
    environment = state["environment"]
    if environment is None:
        findings.problem(name, "has no base environment: run main.yml.")
    elif bundle and environment["digest"] not in bundle["environments"]:
        findings.notice(
            name, f"runs Prefect {environment['prefect']} of another bundle than the installed one: run upgrade.yml."
        )
    if node["server"]:
        _assess_backups(name, state, limits, findings)
    for certificate in state["certificates"]:
        seconds = certificate["expires_seconds"]
        if seconds is None:
            findings.problem(name, f"{certificate['path']} cannot be read: {certificate['problem']}")
        elif seconds < limits.certificate_seconds:
            said = "has ended" if seconds < 0 else f"ends in {duration(seconds)}"
            findings.problem(name, f"the certificate {certificate['path']} {said}: renew it.")


def assess_upgrade(upgrade: Mapping[str, str] | None, findings: Findings) -> None:
    """Add what the record of the last *upgrade* says, if that did not come to its end."""
    if upgrade and upgrade["state"] not in _UPGRADE_ENDS:
        findings.problem(
            "controller",
            f"the last upgrade is {upgrade['state'] or 'of an unknown state'} (since {upgrade['time']}): if it does "
            "not run now, run upgrade.yml to finish it, or rollback.yml.",
        )


def _assess_backups(name: str, state: Mapping[str, Any], limits: Limits, findings: Findings) -> None:
    newest = next(iter(state["backups"]), None)
    if newest and newest["age_seconds"] > limits.backup_seconds:
        findings.problem(name, f"the newest backup is {duration(newest['age_seconds'])} old: look at pag-backup.timer.")
    elif newest is None and (state["installed_seconds"] or 0) > limits.backup_seconds:
        findings.problem(name, "there is no backup: run backup.yml.")


def _assess_prefect(nodes: Sequence[Mapping[str, Any]], prefect: Mapping[str, Any], findings: Findings) -> None:
    if not prefect["answers"]:
        findings.problem("Prefect", prefect["problem"])
        return
    for pool in prefect["pools"]:
        if pool["paused"]:
            findings.notice("Prefect", f"the work pool {pool['name']} is paused: no run starts there.")
    for sentence in _missing_workers(nodes, prefect):
        findings.problem("Prefect", sentence)
    late = prefect["runs"]["now"]["late"]
    if late:
        findings.problem("Prefect", f"{_number(late, 'run')} late: {_named(prefect['late'], late)}.")
    if prefect["stuck"]:
        stuck = prefect["stuck"]
        findings.problem("Prefect", f"{_number(len(stuck), 'run')} pending for long: {_named(stuck, len(stuck))}.")
    lost = lost_runs(nodes, prefect)
    if lost:
        names = ", ".join(f"{run['name']} on {run['worker']}" for run in lost[:_NAMED])
        findings.problem(
            "Prefect", f"{_number(len(lost), 'run')} Running without a process: {names}{_more(len(lost))}."
        )
    # A pool without workers is named already, or paused on purpose.
    ready = {
        pool["name"] for pool in prefect["pools"] if not pool["paused"] and any(w["online"] for w in pool["workers"])
    }
    waiting = [entry for entry in prefect["deployments"]["named"] if entry["pool"] in ready]
    if waiting:
        names = ", ".join(entry["name"] for entry in waiting[:_NAMED])
        findings.notice("Prefect", f"deployments that no worker has asked for lately: {names}{_more(len(waiting))}.")
    crashed = prefect["runs"]["last_day"]["crashed"]
    if crashed:
        findings.notice("Prefect", f"{crashed} run{'s' if crashed > 1 else ''} crashed in the last 24 hours.")
    _assess_versions(nodes, prefect, findings)


def _assess_versions(nodes: Sequence[Mapping[str, Any]], prefect: Mapping[str, Any], findings: Findings) -> None:
    for node in nodes:
        environment = node["state"]["environment"] if node["reachable"] else None
        if environment and _version(environment["prefect"]) > _version(prefect["version"]):
            findings.problem(
                node["name"],
                f"its Prefect {environment['prefect']} is newer than the server's {prefect['version']}: "
                "run main.yml --tags prefect-server first.",
            )


def _missing_workers(nodes: Sequence[Mapping[str, Any]], prefect: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with workers that the inventory has, and that are neither drained nor stopped by a mishap."""
    for node in nodes:
        for kind in node["workers"]:
            pool = next((pool for pool in prefect["pools"] if pool["name"] == node["pools"][kind]), None)
            if pool is None:
                yield f"there is no work pool {node['pools'][kind]}: run main.yml --tags prefect-server."
                continue
            if not node["reachable"] or kind in node["state"]["drained"]:
                continue
            worker = next((worker for worker in pool["workers"] if worker["name"] == node["name"]), None)
            if worker is None:
                yield f"has never heard of the {kind} worker of {node['name']} in {pool['name']}."
            elif not worker["online"]:
                seconds = worker["heartbeat_seconds"]
                silent = "ever" if seconds is None else duration(seconds)
                yield f"has not heard of the {kind} worker of {node['name']} in {pool['name']} for {silent}."


def lost_runs(nodes: Sequence[Mapping[str, Any]], prefect: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the runs that the server believes Running on a node, and that the node does not have."""
    present = {node["name"]: {run for runs in node["state"]["runs"].values() for run in runs}
               for node in nodes if node["reachable"]}  # fmt: skip
    return [
        run
        for run in prefect["running"]
        if run["worker"] in present
        and run["id"] not in present[run["worker"]]
        and (run["age_seconds"] is None or run["age_seconds"] > _YOUNG_SECONDS)
    ]


def duration(seconds: float) -> str:
    """Return a time span in the one unit that says most."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def _since(unit: Mapping[str, Any]) -> str:
    return "" if unit["since_seconds"] is None else f", since {duration(unit['since_seconds'])}"


def _named(runs: Sequence[Mapping[str, Any]], count: int) -> str:
    names = [f"{run['name']} of {run['deployment']} ({duration(run['age_seconds'])})" for run in runs[:_NAMED]]
    return ", ".join(names) + _more(count)


def _more(count: int) -> str:
    return f" and {count - _NAMED} more" if count > _NAMED else ""


def _number(count: int, what: str) -> str:
    return f"1 {what} is" if count == 1 else f"{count} {what}s are"


def _version(text: str) -> tuple[int, ...]:
    numbers = []
    for part in text.split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
