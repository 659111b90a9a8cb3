"""The status of a cluster as one screen of plain text: what is wrong comes first. Standard library only."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from ansible.module_utils.cluster_health import duration, expected_units

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

WIDTH = 110
# Rows of a table; a large cluster's healthy nodes are summed up beyond.
_LIMITS = 12


def screen(status: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> str:
    """Return the screen for *status*, the document of the module status_report, and the *nodes* it was made of."""
    lines = [*_head(status), "", *_findings(status), "", *_prefect(status), "", *_nodes(status, nodes), *_gpus(nodes)]
    lines += _records(status)
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def _head(status: Mapping[str, Any]) -> Iterator[str]:
    count = len(status["problems"])
    verdict = "all is well" if status["well"] else f"{count} problem{'s' if count > 1 else ''}"
    yield f"{status['time']}  {verdict.upper()}"
    bundle = status["bundle"]
    if bundle:
        yield f"bundle {bundle['version']} ({bundle['digest'][:12]}), {bundle['deployments']} deployments on record"


def _findings(status: Mapping[str, Any]) -> Iterator[str]:
    for mark, found in (("!!", status["problems"]), ("--", status["notices"])):
        for entry in found:
            yield from textwrap.wrap(
                f"{mark} {entry['where']}: {entry['what']}",
                WIDTH,
                subsequent_indent="   ",
                break_long_words=False,
                break_on_hyphens=False,
            )
    if not status["problems"] and not status["notices"]:
        yield "No problems, nothing to note."


def _prefect(status: Mapping[str, Any]) -> Iterator[str]:
    prefect = status["prefect"]
    if prefect is None:
        yield "PREFECT  was not asked"
        return
    if not prefect["answers"]:
        yield f"PREFECT  {prefect['url']} does not answer"
        return
    yield f"PREFECT {prefect['version']}  {prefect['url']}"
    now, day = prefect["runs"]["now"], prefect["runs"]["last_day"]
    yield "  runs now: " + ", ".join(
        f"{now[name]} {name}" for name in ("running", "pending", "late", "scheduled", "paused")
    )
    yield "  last 24 h: " + ", ".join(f"{day[name]} {name}" for name in ("completed", "failed", "crashed", "cancelled"))
    rows = [
        (
            pool["name"],
            "paused" if pool["paused"] else pool["status"].replace("_", " "),
            f"{sum(worker['online'] for worker in pool['workers'])} of {len(pool['workers'])} online",
            f"{pool['runs']['running']} running, {pool['runs']['pending']} pending",
            "no limit" if pool["concurrency_limit"] is None else f"limit {pool['concurrency_limit']}",
        )
        for pool in prefect["pools"]
    ]
    yield from _table(("pool", "", "workers", "runs", ""), rows)
    limits = [limit for limit in prefect["limits"] if limit["active"]]
    if limits:
        used = [f"{limit['name']} {limit['active_slots']}/{limit['limit']}" for limit in limits[:_LIMITS]]
        more = f", and {len(limits) - _LIMITS} more" if len(limits) > _LIMITS else ""
        text = f"slots taken of limits: {', '.join(used)}{more}"
        yield from textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _nodes(status: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "NODES"
    troubled = {problem["where"] for problem in status["problems"]}
    rows = []
    for node in nodes:
        mark = "!! " if node["name"] in troubled else "   "
        if not node["reachable"]:
            rows.append((mark + node["name"], "UNREACHABLE", "", "", "", "", "", ""))
            continue
        state = node["state"]
        environment = state["environment"] or {"prefect": "-"}
        memory = state["memory"]
        runs = sum(len(found) for found in state["runs"].values())
        rows.append(
            (
                mark + node["name"],
                _services(node),
                environment["prefect"],
                str(runs) if node["workers"] else "",
                " ".join(f"{disk['used_percent']}%" for disk in state["disks"]),
                f"{100 - 100 * memory['available_bytes'] // memory['bytes']}%",
                f"{state['load']:.1f}/{state['processors']}",
                duration(state["booted_seconds"]),
            )
        )
    yield from _table(("   node", "services", "Prefect", "runs", "disk", "memory", "load", "up"), rows)


def _gpus(nodes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows = [
        (
            node["name"],
            ", ".join(f"{gpu['id']} {gpu['name']}" for gpu in found["gpus"])
            or (f"{found['amd']} of AMD" if found["amd"] else f"devices {', '.join(found['devices'])}"),
            f"driver {found['driver'] or '?'}, CUDA {found['cuda'] or '?'}" if not found["amd"] else "",
        )
        for node in nodes
        if node["reachable"]
        and (found := node["state"].get("gpus"))
        and (found["gpus"] or found["devices"] or found["amd"])
    ]
    if rows:
        yield "GPUS"
        yield from _table(("node", "GPUs", ""), rows[:_LIMITS])


def _services(node: Mapping[str, Any]) -> str:
    """Return a node's services, each with its state where it is not simply running."""
    state = node["state"]
    units = {unit["name"]: unit for unit in state["units"]}
    said = []
    for name in expected_units(node):
        short = name.removesuffix(".service").removeprefix("prefect-")
        unit = units.get(name)
        active = unit["active"] if unit else "missing"
        if short.removeprefix("worker-") in state["drained"]:
            said.append(f"{short}:drained")
        else:
            said.append(short if active == "active" else f"{short}:{active.upper()}")
    return " ".join(said) or "-"


def _records(status: Mapping[str, Any]) -> Iterator[str]:
    backups = [(node["name"], backup) for node in status["nodes"] if node["reachable"] for backup in node["backups"]]
    yield ""
    if backups:
        for name, backup in backups:
            size = f"{backup['bytes'] / 1e6:.1f} MB"
            yield f"BACKUP  {name} {backup['name']}, {duration(backup['age_seconds'])} ago, {size}"
    else:
        yield "BACKUP  none"
    certificates = [
        f"{node['name']} {certificate['path']} until {certificate['expires'] or '?'}"
        for node in status["nodes"]
        if node["reachable"]
        for certificate in node["certificates"]
    ]
    yield from (f"CERTIFICATE  {line}" for line in certificates or ["none"])
    errors = [
        (error["time"], node["name"], error)
        for node in status["nodes"]
        if node["reachable"]
        for error in node["errors"]
    ]
    if errors:
        yield "LAST ERRORS (24 h)"
        for time, name, error in sorted(errors, key=lambda entry: entry[0], reverse=True)[:_LIMITS]:
            unit = error["unit"].removesuffix(".service")
            yield f"  {time[5:19].replace('T', ' ')} {name} {unit}: {error['message']}"[:WIDTH]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        yield "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
