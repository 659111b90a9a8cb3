"""What of a cluster is a problem, what is a notice, and how both are shown."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from status_report import document

from ansible.module_utils.cluster_health import Limits, duration, lost_runs
from ansible.module_utils.status_screen import WIDTH, screen

SCHEMA = Path(__file__).resolve().parents[2] / "ansible/roles/status/files/status.schema.json"
BUNDLE = {"version": "0.1.0", "digest": "d" * 64, "environments": ["abc"], "deployments": 1}
DAY = 86400


def unit(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "active": "active", "sub": "running", "result": "success", "enabled": "enabled",
            "restarts": 0, "reload_needed": False, "since_seconds": 5000} | changes  # fmt: skip


def node(name: str, *units: str, server: bool = False, workers: tuple[str, ...] = ()) -> dict[str, Any]:
    state = {
        "hostname": name, "system": "Debian", "kernel": "6", "python": "3.11.2", "booted_seconds": 9000,
        "clock_seconds": 0.1, "installed_seconds": 100,
        "environment": {"name": "prefect", "digest": "abc", "prefect": "3.8.8", "python": "3.11"},
        "units": [unit(name) for name in units], "failed_units": [], "drained": [],
        "runs": {name: [] for name in units if "worker" in name},
        "disks": [
            {"directories": ["/var"], "bytes": 100, "free_bytes": 50, "used_percent": 50, "used_inodes_percent": 1},
        ],
        "memory": {"bytes": 100, "available_bytes": 50}, "load": 0.5, "processors": 2,
        "backups": [{"name": "20261121T060000Z", "age_seconds": 60, "bytes": 1000}] if server else [],
        "certificates": [], "reboot": [], "errors": [],
    }  # fmt: skip
    return {"name": name, "server": server, "workers": list(workers), "pools": {"cpu": "cpu-pool", "gpu": "gpu-pool"},
            "reachable": True, "reason": "", "state": state}  # fmt: skip


@pytest.fixture
def nodes() -> list[dict[str, Any]]:
    return [
        node("server", "postgresql.service", "prefect-server.service", "nginx.service", server=True),
        node("worker", "prefect-worker-cpu.service", workers=("cpu",)),
    ]


@pytest.fixture
def prefect() -> dict[str, Any]:
    return {
        "url": "http://server:4200/api", "answers": True, "problem": "", "version": "3.8.8",
        "pools": [{
            "name": "cpu-pool", "type": "process", "status": "ready", "paused": False, "concurrency_limit": None,
            "workers": [{"name": "worker", "online": True, "heartbeat_seconds": 3}],
            "runs": {"running": 0, "pending": 0},
        }],
        "runs": {"now": dict.fromkeys(("running", "pending", "paused", "cancelling", "late", "scheduled"), 0),
                 "last_day": dict.fromkeys(("completed", "failed", "crashed", "cancelled"), 0)},
        "running": [], "late": [], "stuck": [],
        "deployments": {"count": 1, "paused": 0, "not_ready": 0, "named": []},
        "limits": [{"name": "gpu-worker-0", "limit": 1, "active_slots": 0, "active": True}],
    }  # fmt: skip


def judged(nodes: list[dict[str, Any]], prefect: dict[str, Any] | None) -> tuple[list[str], list[str]]:
    """Return problems and notices, and check that the document is as its schema says, and the screen a screen."""
    jsonschema = pytest.importorskip("jsonschema")
    found = document(nodes, prefect, BUNDLE, Limits())
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    shown = screen(found, nodes)
    assert shown.isascii()
    assert max(map(len, shown.splitlines())) <= WIDTH
    assert found["well"] == (not found["problems"])
    assert ("ALL IS WELL" in shown) == found["well"]
    problems, notices = (
        [f"{entry['where']}: {entry['what']}" for entry in found[kind]] for kind in ("problems", "notices")
    )
    return problems, notices


def test_all_is_well(nodes: list[dict[str, Any]], prefect: dict[str, Any]) -> None:
    assert judged(nodes, prefect) == ([], [])


CHANGES: list[tuple[str, Any, str, str]] = [
    # What of a node's state, its value, and the beginning of the problem or the notice.
    ("units", [], "problem", "worker: prefect-worker-cpu.service is not installed"),
    ("units", [unit("prefect-worker-cpu.service", active="failed", sub="failed", since_seconds=30)], "problem",
     "worker: prefect-worker-cpu.service is failed (failed, since 30 s)"),
    ("units", [unit("prefect-worker-cpu.service", restarts=5, since_seconds=20)], "problem",
     "worker: prefect-worker-cpu.service was restarted 5 times"),
    ("units", [unit("prefect-worker-cpu.service", reload_needed=True)], "notice",
     "worker: prefect-worker-cpu.service runs with an older unit file"),
    ("failed_units", ["other.service"], "problem", "worker: other.service failed"),
    ("disks", [{"directories": ["/opt"], "bytes": 1, "free_bytes": 0, "used_percent": 91, "used_inodes_percent": 1}],
     "problem", "worker: 91 % of the space below /opt is used"),
    ("disks", [{"directories": ["/opt"], "bytes": 1, "free_bytes": 0, "used_percent": 1, "used_inodes_percent": 99}],
     "problem", "worker: 99 % of the inodes below /opt is used"),
    ("memory", {"bytes": 100, "available_bytes": 4}, "problem", "worker: 4 % of its memory is left"),
    ("clock_seconds", -31.0, "problem", "worker: its clock differs by -31 s"),
    ("environment", None, "problem", "worker: has no base environment"),
    ("environment", {"name": "prefect", "digest": "zzz", "prefect": "3.8.8", "python": "3.11"}, "notice",
     "worker: runs Prefect 3.8.8 of another bundle"),
    ("environment", {"name": "prefect", "digest": "abc", "prefect": "3.10.1", "python": "3.11"}, "problem",
     "worker: its Prefect 3.10.1 is newer than the server's 3.8.8"),
    ("reboot", ["packages ask for it"], "notice", "worker: needs a reboot: packages ask for it"),
    ("certificates", [{"path": "/c.pem", "expires": "x", "expires_seconds": 10 * DAY, "problem": ""}], "problem",
     "worker: the certificate /c.pem ends in 10 d"),
    ("certificates", [{"path": "/c.pem", "expires": "x", "expires_seconds": -1, "problem": ""}], "problem",
     "worker: the certificate /c.pem has ended"),
    ("certificates", [{"path": "/c.pem", "expires": "", "expires_seconds": None, "problem": "broken"}], "problem",
     "worker: /c.pem cannot be read: broken"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "kind", "expected"), CHANGES)
def test_what_is_said_of_a_worker(
    nodes: list[dict[str, Any]], prefect: dict[str, Any], key: str, value: Any, kind: str, expected: str
) -> None:
    nodes[1]["state"][key] = value
    problems, notices = judged(nodes, prefect)
    said, silent = (problems, notices) if kind == "problem" else (notices, problems)
    assert len(said) == 1
    assert said[0].startswith(expected)
    assert silent == []


@pytest.mark.parametrize(
    ("state", "problems"), [("finished", 0), ("rolled back", 0), ("under way", 1), ("rolling back", 1), ("", 1)]
)
def test_an_upgrade_that_did_not_end(
    nodes: list[dict[str, Any]], prefect: dict[str, Any], state: str, problems: int
) -> None:
    record = {"file": "/opt/pag/upgrade/0001/state.json", "state": state, "time": "T"}
    found = document(nodes, prefect, BUNDLE, Limits(), record)["problems"]
    assert [problem["where"] for problem in found] == ["controller"] * problems


def test_a_restart_long_ago_is_no_problem(nodes: list[dict[str, Any]], prefect: dict[str, Any]) -> None:
    nodes[1]["state"]["units"][0] |= {"restarts": 5, "since_seconds": 3600}
    assert judged(nodes, prefect) == ([], [])


def test_a_drained_worker_may_stand_still(nodes: list[dict[str, Any]], prefect: dict[str, Any]) -> None:
    nodes[1]["state"]["units"][0]["active"] = "inactive"
    nodes[1]["state"]["drained"] = ["cpu"]
    prefect["pools"][0]["workers"][0]["online"] = False
    problems, notices = judged(nodes, prefect)
    assert (problems, notices) == ([], ["worker: its cpu worker is drained."])


def test_nodes_that_are_away_or_empty(nodes: list[dict[str, Any]]) -> None:
    nodes[0] |= {"reachable": False, "reason": "No route to host", "state": {}}
    nodes[1]["state"] |= {"environment": None, "units": [], "runs": {}}
    problems, _ = judged(nodes, None)
    assert problems == [
        "server: cannot be reached: No route to host",
        "worker: nothing is installed yet: run main.yml.",
    ]


def test_before_anything_is_installed_that_is_all_there_is_to_say(
    nodes: list[dict[str, Any]], prefect: dict[str, Any]
) -> None:
    for node_ in nodes:
        # What a controller has, which is a node too.
        node_["state"] |= {"environment": None, "units": [unit("pag-ui.socket")], "runs": {}}
    prefect |= {"answers": False, "problem": "It does not answer."}
    problems, notices = judged(nodes, prefect)
    assert problems == [f"{name}: nothing is installed yet: run main.yml." for name in ("server", "worker")]
    assert notices == []


@pytest.mark.parametrize(
    ("backups", "installed", "expected"),
    [
        ([{"name": "x", "age_seconds": 3 * DAY, "bytes": 1}], 9 * DAY, "server: the newest backup is 3 d old"),
        ([], 9 * DAY, "server: there is no backup"),
        ([], 1 * DAY, None),
    ],
)
def test_backups(
    nodes: list[dict[str, Any]], prefect: dict[str, Any], backups: list[Any], installed: int, expected: str | None
) -> None:
    nodes[0]["state"] |= {"backups": backups, "installed_seconds": installed}
    problems, _ = judged(nodes, prefect)
    assert [problem.partition(":")[0] for problem in problems] == (["server"] if expected else [])
    if expected:
        assert problems[0].startswith(expected)


def _run(name: str, **more: Any) -> dict[str, Any]:
    return {"id": f"id-{name}", "name": name, "deployment": "flow/deployment", "age_seconds": 300} | more


PREFECT_CHANGES: list[tuple[dict[str, Any], str, str]] = [
    ({"answers": False, "problem": "It is gone."}, "problem", "Prefect: It is gone."),
    ({"late": [_run("slow-snail")], "runs.now.late": 1}, "problem",
     "Prefect: 1 run is late: slow-snail of flow/deployment (5 min)."),
    ({"late": [_run(name) for name in "abcde"], "runs.now.late": 9}, "problem", "Prefect: 9 runs are late: a of"),
    ({"stuck": [_run("a", age_seconds=700)]}, "problem",
     "Prefect: 1 run is pending for long: a of flow/deployment (12 min)."),
    ({"running": [_run("a", worker="worker")]}, "problem", "Prefect: 1 run is Running without a process: a on worker."),
    ({"pools.0.paused": True}, "notice", "Prefect: the work pool cpu-pool is paused"),
    ({"pools.0.workers": []}, "problem", "Prefect: has never heard of the cpu worker of worker in cpu-pool."),
    ({"pools": []}, "problem", "Prefect: there is no work pool cpu-pool"),
    ({"pools.0.workers.0.online": False}, "problem",
     "Prefect: has not heard of the cpu worker of worker in cpu-pool for 3 s."),
    ({"runs.last_day.crashed": 2}, "notice", "Prefect: 2 runs crashed in the last 24 hours."),
    ({"deployments.named": [{"name": "f/d", "pool": "cpu-pool"}]}, "notice",
     "Prefect: deployments that no worker has asked for"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "kind", "expected"), PREFECT_CHANGES)
def test_what_is_said_of_the_server(
    nodes: list[dict[str, Any]], prefect: dict[str, Any], changes: dict[str, Any], kind: str, expected: str
) -> None:
    for path, value in changes.items():
        *parents, last = path.split(".")
        place: Any = prefect
        for name in parents:
            place = place[int(name) if isinstance(place, list) else name]
        place[last] = value
    problems, notices = judged(nodes, prefect)
    said = problems if kind == "problem" else notices
    assert len(problems + notices) == 1
    assert said[0].startswith(expected)


def test_runs_that_are_not_lost(nodes: list[dict[str, Any]], prefect: dict[str, Any]) -> None:
    nodes[1]["state"]["runs"]["prefect-worker-cpu.service"] = ["id-there"]
    away = copy.deepcopy(nodes[1]) | {"name": "away", "reachable": False}
    prefect["running"] = [
        _run("there", worker="worker"),
        _run("young", worker="worker", age_seconds=5),
        _run("away", worker="away"),
        _run("served", worker=""),
    ]
    assert lost_runs([*nodes, away], prefect) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (3 * DAY, "3 d"), (DAY, "24 h")]
)
def test_durations(seconds: int, text: str) -> None:
    assert duration(seconds) == text


def test_many_nodes_and_limits_stay_in_columns(nodes: list[dict[str, Any]], prefect: dict[str, Any]) -> None:
    prefect["limits"] = [{"name": f"gpu-{n}-0", "limit": 1, "active_slots": 0, "active": True} for n in range(100)]
    errors = [{"unit": "prefect-server.service", "time": "2026-11-21T06:00:00Z", "message": "x" * 300}] * 3
    nodes[0]["state"]["errors"] = errors
    more = [copy.deepcopy(nodes[1]) | {"name": f"worker-{number:03}"} for number in range(100)]
    prefect["pools"][0]["workers"] += [{"name": one["name"], "online": True, "heartbeat_seconds": 1} for one in more]
    assert judged(nodes + more, prefect) == ([], [])
