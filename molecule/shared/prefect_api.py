"""Prefect's REST API, as far as the demo and the tests use it; standard library only."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def worker_of(run: Mapping[str, Any]) -> str | None:
    """Return the name of the worker that started a run; None: none did."""
    name = run["labels"].get("prefect.worker.name")
    return None if name is None else str(name)


class ApiError(Exception):
    """The API refused a request, or a run did not end as it should."""


@dataclass(frozen=True)
class PrefectApi:
    """A server's API."""

    url: str
    """Ends in ``/api``."""
    basic_auth: str | None = None
    """``user:password``; None: no login."""

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout: float = 30) -> Any:
        """Send a request and return the answer's JSON; raises ApiError when the status is no success."""
        headers = {"Content-Type": "application/json"}
        if self.basic_auth is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(self.basic_auth.encode()).decode()
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data=data, method=method, headers=headers)  # noqa: S310
        # The host's proxy settings are for the world outside.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            raise ApiError(f"{method} {path} was answered {error.code}: {error.read().decode()[:500]}") from error
        except OSError as error:
            raise ApiError(f"{method} {path} got no answer: {error}") from error
        return json.loads(content) if content else None

    def deployments(self) -> list[dict[str, Any]]:
        """Return all deployments."""
        return list(self.request("POST", "/deployments/filter", {}))

    def work_pools(self) -> list[dict[str, Any]]:
        """Return all work pools."""
        return list(self.request("POST", "/work_pools/filter", {}))

    def workers(self, pool: str) -> list[dict[str, Any]]:
        """Return the workers that the server has heard of in a pool."""
        return list(self.request("POST", f"/work_pools/{pool}/workers/filter", {}))

    def start(self, deployment: str, parameters: Mapping[str, Any] | None = None, delay: float | None = None) -> str:
        """Create a run of the deployment called ``flow/deployment`` and return its id; *delay* is in seconds."""
        found = self.request("GET", f"/deployments/name/{deployment}")
        body: dict[str, Any] = {"parameters": dict(parameters or {})}
        if delay is None:
            body["state"] = {"type": "SCHEDULED"}
        else:
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + delay))
            body["state"] = {"type": "SCHEDULED", "state_details": {"scheduled_time": when}}
        return str(self.request("POST", f"/deployments/{found['id']}/create_flow_run", body)["id"])

    def wait(self, run: str, timeout: float = 180) -> dict[str, Any]:
        """Wait until a run has ended and return it; raises ApiError when it takes longer than *timeout* seconds."""
        deadline = time.monotonic() + timeout
        while True:
            found: dict[str, Any] = self.request("GET", f"/flow_runs/{run}")
            if found["state_type"] in _FINAL:
                return found
            if time.monotonic() > deadline:
                raise ApiError(f"The run {found['name']} is still {found['state_name']} after {timeout:.0f} s.")
            time.sleep(0.5)

    def logs(self, run: str) -> str:
        """Return a run's log, one message after the other."""
        # The server takes what runs log a moment after they ended.
        query = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        return "\n".join(entry["message"] for entry in self.request("POST", "/logs/filter", query))
