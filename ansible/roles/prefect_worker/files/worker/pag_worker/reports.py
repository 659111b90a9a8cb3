"""What a worker tells the server of its runs, and asks of it: that they live, and how they ended."""

from __future__ import annotations

import datetime
import logging
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_api import PrefectApi

LOST = "Lost: "
"""How the messages of runs begin that did not end by themselves; the server's automations look for it."""
SILENT = f"{LOST}no sign of life"
"""How the message begins that the server's automation gives a run which nobody vouches for."""
HEARTBEAT = "prefect.flow-run.heartbeat"
LIVING = ("PENDING", "RUNNING", "CANCELLING")
"""Types of the states that a run under way has."""

_FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

# A run that was claimed has its worker's name within a second; until then it may be another's.
_UNNAMED_SECONDS = 30.0
_PAGE = 100
_DEPTH = 10

Run = dict[str, Any]


def given_up(run: Run) -> bool:
    """Whether the server's automations ended a run, or scheduled it again, because nobody had vouched for it."""
    message = str((run.get("state") or {}).get("message"))
    crashed = run["state_type"] == "CRASHED" and message.startswith(SILENT)
    return crashed or (run["state_type"] == "SCHEDULED" and message.startswith(LOST))


class Reports:
    """The server's view of the runs of one worker. All methods raise PrefectApiError."""

    def __init__(self, api: PrefectApi, worker: str, pool: str) -> None:
        self._api = api
        self._worker = worker
        self._pool = pool
        # A run's end is looked at and reported by one thread while another one may vouch for it.
        self._deciding = threading.Lock()

    def runs(self, ids: Iterable[str]) -> dict[str, Run]:
        """Return what the server knows of these runs; those that were deleted are missing."""
        wanted = sorted(ids)
        return {run["id"]: run for page in _pages(wanted) for run in self._filter({"id": {"any_": page}})}

    def vouch(self, runs: Sequence[Run]) -> None:
        """Say of runs, which the server takes to be under way, that they and what they called are alive."""
        living = [run for run in runs if run["state_type"] in LIVING]
        events = [self._heartbeat(run) for run in [*living, *self._called(living)]]
        for page in _pages(events):
            self._api.request("POST", "/events", page)

    def vouch_for_new(self, run: str, name: str, tags: Sequence[str]) -> None:
        """Vouch for a run whose process has just begun: the server notices from now on when nobody does any more."""
        self._api.request("POST", "/events", [self._heartbeat({"id": run, "name": name, "tags": tags})])

    def restore(self, run: Run) -> bool:
        """Make a run Running again that the server gave up while it could not be told of it; False when it is not so.

        A run that is heard of again may say at the same moment how it ended: that stands, whoever comes first.
        """
        with self._deciding:
            now = self.runs([run["id"]]).get(run["id"])
            if now is None or not given_up(now):
                return False
            message = f"The worker on {self._worker} vouches for it: it was out of the server's reach."
            self._set(now["id"], {"type": "RUNNING", "name": "Running", "message": message})
            own = self._end_of_its_own(now)
            if own is not None:
                self._set(now["id"], {key: own.get(key) for key in ("type", "name", "message", "data")})
            return own is None

    def _end_of_its_own(self, given_up_as: Run) -> dict[str, Any] | None:
        """Return the final state that a run has had after the one in which it was given up, None when there is none."""
        states = list(self._api.request("GET", f"/flow_run_states/?flow_run_id={given_up_as['id']}"))
        since = next(place for place, state in enumerate(states) if state["id"] == given_up_as["state"]["id"])
        return next((state for state in reversed(states[since + 1 :]) if state["type"] in _FINAL), None)

    def is_mine(self, run: Run, now: float) -> bool | None:
        """Whether a run is this worker's; None: it is too early to say. *now* is in seconds since the epoch."""
        labels = run.get("labels") or {}
        if "prefect.worker.name" in labels:
            return (labels["prefect.worker.name"], labels.get("prefect.work-pool.name")) == (self._worker, self._pool)
        age = now - _seconds((run.get("state") or {}).get("timestamp"))
        return True if age > _UNNAMED_SECONDS else None

    def end(self, run: Run, message: str, *, crashed_too: bool = False) -> bool:
        """Give a run an end that says why, and those that it called; False when it has one of its own.

        With *crashed_too*, the message takes the place of the one that a run has that crashed meanwhile.
        """
        if run["state_type"] not in LIVING and not crashed_too:
            return False
        with self._deciding:
            now = self.runs([run["id"]]).get(run["id"])
            if now is None:
                return False
            if now["state_type"] == "CANCELLING":
                self._set(now["id"], {"type": "CANCELLED", "name": "Cancelled", "message": message})
            elif now["state_type"] in LIVING or (crashed_too and now["state_type"] == "CRASHED"):
                self._set(now["id"], _crashed(message))
            else:
                return False
            for called in self._called([now]):
                self._set(called["id"], _crashed(message))
            return True

    def log(self, run: Run, message: str) -> None:
        """Write a warning into a run's log."""
        entry = {"flow_run_id": run["id"], "name": "prefect.flow_runs.worker", "level": logging.WARNING}
        self._api.request("POST", "/logs/", [entry | {"message": message, "timestamp": _now()}])

    def _called(self, runs: Sequence[Run]) -> list[Run]:
        """Return the runs under way that these called as functions, which have no worker of their own."""
        found: list[Run] = []
        parents = [run["id"] for run in runs]
        for _ in range(_DEPTH):
            children = [
                run
                for page in _pages(parents)
                for run in self._filter({"parent_flow_run_id": {"any_": page}, "state": {"type": {"any_": LIVING}}})
                if not run["deployment_id"]
            ]
            if not children:
                break
            found += children
            parents = [run["id"] for run in children]
        return found

    def _filter(self, flow_runs: dict[str, Any]) -> list[Run]:
        query = {"flow_runs": flow_runs, "limit": 200}
        return list(self._api.request("POST", "/flow_runs/filter", query))

    def _set(self, run: str, state: dict[str, Any]) -> None:
        self._api.request("POST", f"/flow_runs/{run}/set_state", {"state": state, "force": True})

    def _heartbeat(self, run: Run) -> dict[str, Any]:
        tags = [{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in run["tags"]]
        worker = {
            "prefect.resource.id": f"prefect.worker.process.{self._worker}",
            "prefect.resource.name": self._worker,
            "prefect.resource.role": "worker",
        }
        return {
            "id": str(uuid.uuid4()),
            "occurred": _now(),
            "event": HEARTBEAT,
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run['id']}", "prefect.resource.name": run["name"]},
            "related": [worker, *tags],
        }


def _crashed(message: str) -> dict[str, Any]:
    return {"type": "CRASHED", "name": "Crashed", "message": message}


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat()


def _pages(entries: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for first in range(0, len(entries), _PAGE):
        yield entries[first : first + _PAGE]


def _seconds(timestamp: str | None) -> float:
    """Return a time of the API in seconds since the epoch; 0 when there is none."""
    if not timestamp:
        return 0.0
    # Python 3.10 reads no Z.
    return datetime.datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()
