"""What a server says of itself, over real HTTP: numbers, names and ages."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from fake_prefect import AUTH, FakePrefect, running_prefect

from ansible.module_utils.prefect_api import PrefectApi
from ansible.module_utils.prefect_state import _age, state

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=timezone.utc)


class Server(FakePrefect):
    """Answers what is asked for the status."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[dict[str, Any]] = []

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        parts = path.strip("/").split("/")
        if parts[0] == "flow_runs":
            wanted = body["flow_runs"]["state"]
            key = "type" if "type" in wanted else "name"
            found = [run for run in self.runs if run["state"][key] in wanted[key]["any_"]]
            if "end_time" in body["flow_runs"]:
                found = [run for run in found if run["end_time"] >= body["flow_runs"]["end_time"]["after_"]]
            if parts[1] == "count":
                return 200, len(found)
            return 200, found[body["offset"] : body["offset"] + body["limit"]]
        if parts[0] == "work_pools" and parts[2:3] == ["workers"]:
            return 200, [
                {"name": "one", "status": "ONLINE", "last_heartbeat_time": "2026-11-21T11:59:50.123456789Z"},
                {"name": "two", "status": "OFFLINE", "last_heartbeat_time": None},
            ]
        if parts == ["deployments", "filter"]:
            found = list(self.deployments.values())
            return 200, found[body["offset"] : body["offset"] + body["limit"]]
        if parts[0] == "deployments" and method == "GET":
            return 200, next(entry for entry in self.deployments.values() if entry["id"] == parts[1])
        if parts[0] == "flows" and method == "GET":
            return 200, {"name": "the-flow"}
        return super().answer(method, path, body)


def _run(server: Server, name: str, kind: str, label: str, **more: Any) -> None:
    deployment = server.deployments["the-flow/d"]
    server.runs.append(
        {
            "id": f"id-{name}",
            "name": name,
            "flow_id": "f",
            "deployment_id": deployment["id"],
            "labels": {"prefect.worker.name": "one"},
            "state": {"type": kind, "name": label, "timestamp": "2026-11-21T11:30:00Z"},
            "start_time": "2026-11-21T11:50:00Z",
            "expected_start_time": "2026-11-21T11:55:00Z",
            "end_time": "2026-11-21T11:59:00+00:00",
        }
        | more
    )


def test_a_servers_state() -> None:
    with running_prefect(Server()) as server:
        server.work_pools["cpu-pool"] = {"name": "cpu-pool", "type": "process", "status": "READY", "is_paused": True,
                                         "concurrency_limit": 3}  # fmt: skip
        limit = {"name": "gpu-one-0", "limit": 1, "active_slots": 1, "active": True, "id": "x"}
        server.limits["gpu-one-0"] = limit
        for number in range(201):
            server.add_deployment("the-flow", f"d{number}", status="READY", flow_id="f", work_pool_name="cpu-pool")
        server.add_deployment("the-flow", "d", status="NOT_READY", flow_id="f", work_pool_name="cpu-pool")
        server.add_deployment("the-flow", "p", status="NOT_READY", paused=True, flow_id="f")
        _run(server, "going", "RUNNING", "Running")
        _run(server, "snail", "SCHEDULED", "Late")
        _run(server, "planned", "SCHEDULED", "Scheduled")
        _run(server, "stuck", "PENDING", "Pending")
        _run(
            server,
            "fresh",
            "PENDING",
            "Pending",
            state={"type": "PENDING", "name": "Pending", "timestamp": "2026-11-21T11:59:00Z"},
        )
        _run(server, "good", "COMPLETED", "Completed")
        _run(server, "old", "COMPLETED", "Completed", end_time="2026-11-20T11:00:00+00:00")
        found = state(PrefectApi(server.url, AUTH), NOW)
        assert server.writes == [] or all(path.endswith("/count") for _, path, _ in server.writes)
    assert found["version"] == "3.8.8"
    assert found["runs"]["now"] == {
        "running": 1, "pending": 2, "paused": 0, "cancelling": 0, "late": 1, "scheduled": 1,
    }  # fmt: skip
    assert found["runs"]["last_day"] == {"completed": 1, "failed": 0, "crashed": 0, "cancelled": 0}
    assert found["running"] == [{"id": "id-going", "name": "going", "worker": "one", "age_seconds": 600}]
    assert found["late"] == [{"id": "id-snail", "name": "snail", "deployment": "the-flow/d", "age_seconds": 300}]
    assert [run["name"] for run in found["stuck"]] == ["stuck"]
    (pool,) = found["pools"]
    assert (pool["paused"], pool["concurrency_limit"], pool["status"]) == (True, 3, "ready")
    assert pool["workers"] == [
        {"name": "one", "online": True, "heartbeat_seconds": 10},
        {"name": "two", "online": False, "heartbeat_seconds": None},
    ]
    assert found["deployments"] == {
        "count": 203, "paused": 1, "not_ready": 1, "named": [{"name": "the-flow/d", "pool": "cpu-pool"}],
    }  # fmt: skip
    assert found["limits"] == [{"name": "gpu-one-0", "limit": 1, "active_slots": 1, "active": True}]


def test_ages_of_times_in_every_form() -> None:
    for text in ("2026-11-21T11:59:00Z", "2026-11-21T11:59:00.5Z", "2026-11-21T11:59:00.123456789+00:00",
                 "2026-11-21T12:59:00+01:00", "2026-11-21T11:59:00"):  # fmt: skip
        assert _age(text, NOW) == 60
    assert _age(None, NOW) is None
    assert _age("2026-11-21T13:00:00Z", NOW) == 0
