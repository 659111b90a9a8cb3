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
# The most that the server gives at once.
_ANSWERED = 200
_DEPTH = 10

Run = dict[str, Any]


def is_living(run: Run) -> bool:
    """Whether a run has a process: also one that waits in it for an approval, unlike one that is suspended."""
    if run["state_type"] != "PAUSED":
        return run["state_type"] in LIVING
    return not ((run.get("state") or {}).get("state_details") or {}).get("pause_reschedule")


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
        living = [run for run in runs if is_living(run)]
        events = [self._heartbeat(run) for run in [*living, *self._called(living)]]
        for page in _pages(events):
            self._api.request("POST", "/events", page)

    def vouch_for_new(self, run: str, name: str, tags: Sequence[str]) -> None:
        """Vouch for a run whose process has just begun: the server notices from now on when nobody does any more."""
        self._api.request("POST", "/events", [self._heartbeat({"id": run, "name": name, "tags": tags})])

    def restore(self, run: Run) -> bool:
        """Make a run again what it was before the server gave it up, which had not heard of it; False if it is not so.

        A run that is heard of again may say at the same moment how it ended: that stands, whoever comes first.
        """
        with self._deciding:
            now = self.runs([run["id"]]).get(run["id"])
            if now is None or not given_up(now):
                return False
            message = f"The worker on {self._worker} vouches for it: it was out of the server's reach."
            self._set(now["id"], self._before(now) | {"message": message})
            own = self._end_of_its_own(now)
            if own is not None:
                self._set(now["id"], {key: own.get(key) for key in ("type", "name", "message", "data")})
            return own is None

    def _before(self, run: Run) -> dict[str, Any]:
        """Return what a run is that was given up: Running, or Paused, for then it waits for an approval."""
        states = [state for state in self._states(run) if not given_up({"state": state, "state_type": state["type"]})]
        if states and states[-1]["type"] == "PAUSED":
            return {key: states[-1].get(key) for key in ("type", "name", "state_details")}
        return {"type": "RUNNING", "name": "Running"}

    def _states(self, run: Run) -> list[dict[str, Any]]:
        """Return all states that a run has had, the first one first."""
        return list(self._api.request("GET", f"/flow_run_states/?flow_run_id={run['id']}"))

    def _end_of_its_own(self, given_up_as: Run) -> dict[str, Any] | None:
        """Return the final state that a run has had after the one in which it was given up, None when there is none."""
        states = self._states(given_up_as)
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
        if not is_living(run) and not crashed_too:
            return False
        with self._deciding:
            now = self.runs([run["id"]]).get(run["id"])
            if now is None:
                return False
            if now["state_type"] == "CANCELLING":
                self._set(now["id"], {"type": "CANCELLED", "name": "Cancelled", "message": message})
            elif is_living(now) or (crashed_too and now["state_type"] == "CRASHED"):
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
                for run in self._filter(
                    {"parent_flow_run_id": {"any_": page}, "state": {"type": {"any_": [*LIVING, "PAUSED"]}}}
                )
                if not run["deployment_id"] and is_living(run)
            ]
            if not children:
                break
            found += children
            parents = [run["id"] for run in children]
        return found

    def _filter(self, flow_runs: dict[str, Any]) -> list[Run]:
        found: list[Run] = []
        while True:
            query = {"flow_runs": flow_runs, "sort": "ID_DESC", "limit": _ANSWERED, "offset": len(found)}
            page = self._api.request("POST", "/flow_runs/filter", query)
            found += page
            if len(page) < _ANSWERED:
                return found

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
