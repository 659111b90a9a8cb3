"""A small Prefect server for tests: the part of the REST API that the modules use, over real HTTP."""

from __future__ import annotations

import base64
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

AUTH = "admin:pass:word"


class FakePrefect:
    """What the server knows, and every request that changed it."""

    def __init__(self) -> None:
        self.url = ""
        self.work_pools: dict[str, dict[str, Any]] = {}
        self.limits: dict[str, dict[str, Any]] = {}
        self.flows: dict[str, str] = {}
        self.deployments: dict[str, dict[str, Any]] = {}
        self.runs: list[dict[str, Any]] = []
        self.writes: list[tuple[str, str, Any]] = []

    def add_deployment(self, flow: str, name: str, **settings: Any) -> dict[str, Any]:
        deployment = {"id": str(uuid.uuid4()), "name": name, "flow": flow, "schedules": [], "tags": [], **settings}
        self.deployments[f"{flow}/{name}"] = deployment
        return deployment

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if method != "GET" and not path.endswith("/filter"):
            self.writes.append((method, path, body))
        parts = path.strip("/").split("/")
        if parts == ["admin", "version"]:
            return 200, "3.8.8"
        if parts[0] == "work_pools":
            return self._named(self.work_pools, method, parts[1:], body, {"concurrency_limit": None})
        if parts[:2] == ["v2", "concurrency_limits"]:
            return self._named(self.limits, method, parts[2:], body, {})
        if parts == ["flows"]:
            return 200, {"id": self.flows.setdefault(body["name"], str(uuid.uuid4()))}
        if parts[:2] == ["deployments", "name"]:
            found = self.deployments.get("/".join(parts[2:]))
            return (200, found) if found else (404, {"detail": "Deployment not found"})
        if parts[0] == "flow_runs":
            return self._runs(parts[1:], body)
        if method == "DELETE" and len(parts) == 2:
            self.deployments = {name: entry for name, entry in self.deployments.items() if entry["id"] != parts[1]}
            return 204, None
        if parts == ["deployments"]:
            flow = next(name for name, identifier in self.flows.items() if identifier == body["flow_id"])
            return 201, self.add_deployment(flow, **{key: body[key] for key in body if key != "flow_id"})
        deployment = next(entry for entry in self.deployments.values() if entry["id"] == parts[1])
        if parts[2:] == ["schedules"]:
            deployment["schedules"] += [{"id": str(uuid.uuid4()), **entry} for entry in body]
        elif parts[2:3] == ["schedules"]:
            deployment["schedules"] = [entry for entry in deployment["schedules"] if entry["id"] != parts[3]]
        else:
            deployment |= body
        return 204, None

    def _runs(self, parts: list[str], body: Any) -> tuple[int, Any]:
        """Filter runs by deployment and state; a run that is cancelled ends when it is asked for the second time."""
        if parts[1:] == ["set_state"]:
            run = next(entry for entry in self.runs if entry["id"] == parts[0])
            run |= {"state_type": body["state"]["type"], "state_name": body["state"]["type"].capitalize()}
            return 201, {"status": "ACCEPT"}
        wanted = body["flow_runs"]
        found = [
            dict(run)
            for run in self.runs
            if run["deployment_id"] in wanted["deployment_id"]["any_"]
            and run["state_type"] in wanted["state"]["type"]["any_"]
        ]
        for run in self.runs:
            if run["state_type"] == "CANCELLING":
                run["state_type"] = "CANCELLED"
        return 200, found[body["offset"] : body["offset"] + body["limit"]]

    def _named(
        self, entries: dict[str, dict[str, Any]], method: str, parts: list[str], body: Any, defaults: dict[str, Any]
    ) -> tuple[int, Any]:
        if parts == ["filter"]:
            found = list(entries.values())[body["offset"] : body["offset"] + body["limit"]]
            return 200, found
        if not parts:
            if body["name"] in entries:
                return 409, {"detail": "A work pool with this name already exists."}
            entries[body["name"]] = defaults | body
            return 201, entries[body["name"]]
        if parts[0] not in entries:
            return 404, {"detail": "not found"}
        if method == "PATCH":
            entries[parts[0]] |= body
            return 204, None
        if method == "DELETE":
            del entries[parts[0]]
            return 204, None
        return 200, entries[parts[0]]


@contextmanager
def running_prefect(prefect: Any = None) -> Iterator[Any]:
    """Serve *prefect*, or else a new FakePrefect, on a free port of the loopback address."""
    prefect = FakePrefect() if prefect is None else prefect
    expected = "Basic " + base64.b64encode(AUTH.encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            if self.headers.get("Authorization") != expected:
                status, content = 401, {"exception_message": "Unauthorized"}
            else:
                status, content = prefect.answer(self.command, self.path.removeprefix("/api"), body)
            data = b"" if content is None else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 (the library's names)

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 (the library's name)
            del format, arguments

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        prefect.url = f"http://127.0.0.1:{server.server_port}/api"
        try:
            yield prefect
        finally:
            server.shutdown()
            thread.join()
