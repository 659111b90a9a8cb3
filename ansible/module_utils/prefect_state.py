"""What a Prefect server says of its pools, workers, runs and deployments. Standard library only."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from ansible.module_utils.prefect_api import PrefectApi, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

# The most that the API returns at once.
_PAGE = 200
# Runs under way that are looked at one by one; clusters of 200 nodes stay below.
_RUNS = 2000
# How many of the late, stuck or lost are named.
_NAMED = 5
_PENDING_SECONDS = 600
_DAY = timedelta(days=1)

CURRENT = ("RUNNING", "PENDING", "PAUSED", "CANCELLING")
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def state(api: PrefectApi, now: datetime | None = None) -> dict[str, Any]:
    """Return what the server is and has; ages are in seconds. Raises PrefectApiError."""
    now = now or datetime.now(timezone.utc)
    names = _Names(api)
    running = list(_runs(api, {"type": {"any_": ["RUNNING"]}}, "START_TIME_ASC", _RUNS))
    pending = list(_runs(api, {"type": {"any_": ["PENDING"]}}, "EXPECTED_START_TIME_ASC", _NAMED))
    late = list(_runs(api, {"name": {"any_": ["Late"]}}, "EXPECTED_START_TIME_ASC", _NAMED))
    return {
        "version": api.request("GET", "/admin/version"),
        "pools": pools(api, now),
        "runs": counts(api, now),
        "running": [
            {
                "id": run["id"],
                "name": run["name"],
                "worker": (run.get("labels") or {}).get("prefect.worker.name") or "",
                "age_seconds": _age(run.get("start_time"), now),
            }
            for run in running
        ],
        "late": [_described(names, run, run.get("expected_start_time"), now) for run in late],
        "stuck": [
            described
            for run in pending
            if (described := _described(names, run, (run.get("state") or {}).get("timestamp"), now))["age_seconds"]
            > _PENDING_SECONDS
        ],
        "deployments": deployments(api, names),
        "limits": limits(api),
    }


def counts(api: PrefectApi, now: datetime) -> dict[str, Any]:
    """Return how many runs are in each state now, and ended in each in the last 24 hours. Raises PrefectApiError."""
    since = {"end_time": {"after_": (now - _DAY).isoformat()}}
    late = _count(api, {"state": {"name": {"any_": ["Late"]}}})
    return {
        "now": {name.lower(): _count(api, _in_state(name)) for name in CURRENT}
        | {"late": late, "scheduled": _count(api, _in_state("SCHEDULED")) - late},
        "last_day": {name.lower(): _count(api, _in_state(name) | since) for name in ENDED},
    }


def pools(api: PrefectApi, now: datetime) -> list[dict[str, Any]]:
    """Return the work pools, each with its workers and how many runs it has. Raises PrefectApiError."""
    return [_pool(api, pool, now) for pool in _pages(api, "/work_pools/filter")]


def limits(api: PrefectApi) -> list[dict[str, Any]]:
    """Return the global concurrency limits with the slots that are taken. Raises PrefectApiError."""
    return [
        {name: limit[name] for name in ("name", "limit", "active_slots", "active")}
        for limit in _pages(api, "/v2/concurrency_limits/filter")
    ]


def deployments_by_state(api: PrefectApi) -> dict[str, int]:
    """Return how many deployments are ready, not ready and paused. Raises PrefectApiError."""
    found = {"ready": 0, "not_ready": 0, "paused": 0}
    for entry in _pages(api, "/deployments/filter"):
        state = "paused" if entry.get("paused") else "not_ready" if entry.get("status") == "NOT_READY" else "ready"
        found[state] += 1
    return found


def deployments(api: PrefectApi, names: _Names) -> dict[str, Any]:
    """Return how many deployments there are, and those that no worker asks for. Raises PrefectApiError."""
    found = list(_pages(api, "/deployments/filter"))
    waiting = [entry for entry in found if entry.get("status") == "NOT_READY" and not entry.get("paused")]
    return {
        "count": len(found),
        "paused": sum(bool(entry.get("paused")) for entry in found),
        "not_ready": len(waiting),
        "named": [
            {"name": f"{names.flow(entry['flow_id'])}/{entry['name']}", "pool": entry.get("work_pool_name") or ""}
            for entry in waiting[:_NAMED]
        ],
    }


class _Names:
    """The names of flows and deployments, each asked for once."""

    def __init__(self, api: PrefectApi) -> None:
        self._api = api
        self._known: dict[str, Any] = {}

    def flow(self, identifier: str) -> str:
        found = self._get(f"/flows/{identifier}")
        return str(found["name"]) if found else "?"

    def deployment(self, run: dict[str, Any]) -> str:
        """Return the name of a run's deployment, with the flow's before it."""
        found = self._get(f"/deployments/{run['deployment_id']}") if run.get("deployment_id") else None
        return f"{self.flow(run['flow_id'])}/{found['name']}" if found else self.flow(run["flow_id"])

    def _get(self, path: str) -> Any:
        if path not in self._known:
            self._known[path] = self._api.get(path)
        return self._known[path]


def _pool(api: PrefectApi, pool: dict[str, Any], now: datetime) -> dict[str, Any]:
    return {
        "name": pool["name"],
        "type": pool["type"],
        "status": (pool.get("status") or "").lower(),
        "paused": bool(pool.get("is_paused")),
        "concurrency_limit": pool.get("concurrency_limit"),
        "workers": [
            {
                "name": worker["name"],
                "online": worker.get("status") == "ONLINE",
                "heartbeat_seconds": _age(worker.get("last_heartbeat_time"), now),
            }
            for worker in _pages(api, f"/work_pools/{quoted(pool['name'])}/workers/filter")
        ],
        "runs": {
            name.lower(): int(
                api.request(
                    "POST",
                    "/flow_runs/count",
                    {"flow_runs": _in_state(name), "work_pools": {"name": {"any_": [pool["name"]]}}},
                )
            )
            for name in ("RUNNING", "PENDING")
        },
    }


def _described(names: _Names, run: dict[str, Any], since: str | None, now: datetime) -> dict[str, Any]:
    return {
        "id": run["id"],
        "name": run["name"],
        "deployment": names.deployment(run),
        "age_seconds": _age(since, now) or 0,
    }


def _in_state(name: str) -> dict[str, Any]:
    return {"state": {"type": {"any_": [name]}}}


def _count(api: PrefectApi, runs: dict[str, Any]) -> int:
    return int(api.request("POST", "/flow_runs/count", {"flow_runs": runs}))


def _runs(api: PrefectApi, wanted: dict[str, Any], sort: str, limit: int) -> Iterator[dict[str, Any]]:
    body = {"flow_runs": {"state": wanted}, "sort": sort}
    yield from _pages(api, "/flow_runs/filter", body, limit)


def _pages(
    api: PrefectApi, path: str, body: dict[str, Any] | None = None, limit: int | None = None
) -> Iterator[dict[str, Any]]:
    offset = 0
    while limit is None or offset < limit:
        size = _PAGE if limit is None else min(_PAGE, limit - offset)
        page = api.request("POST", path, {**(body or {}), "limit": size, "offset": offset})
        yield from page
        if len(page) < size:
            return
        offset += size


def _age(time: str | None, now: datetime) -> int | None:
    if not time:
        return None
    # Python 3.10 knows neither Z nor fractions of any length.
    text = time.replace("Z", "+00:00")
    head, dot, tail = text.partition(".")
    if dot:
        zone = max(tail.find("+"), tail.find("-"))
        text = head + (tail[zone:] if zone >= 0 else "")
    found = datetime.fromisoformat(text)
    return max(round((now - (found if found.tzinfo else found.replace(tzinfo=timezone.utc))).total_seconds()), 0)
