"""A flow that is put in its place on the workers, without a bundle, and its runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from machines import Machines
from prefect_api import ApiError, PrefectApi

_FLOWS = "/opt/prefect/flows"
_VERSION = "0123456789ab"


@dataclass(frozen=True)
class PlacedFlow:
    """The flow called *name* with the code *main*, in the base environment, where deployed flows are."""

    machines: Machines
    api: PrefectApi
    name: str
    main: str
    entrypoint: str
    work_pool: str = "cpu-pool"

    @property
    def place(self) -> str:
        """Where its code is on the workers."""
        return f"{_FLOWS}/{self.name}/{_VERSION}"

    @property
    def nodes(self) -> list[str]:
        """The cluster's workers."""
        return [name for name in self.machines.addresses() if name.startswith("pag-worker-")]

    @contextlib.contextmanager
    def deployed(self) -> Iterator[None]:
        """Have it deployed meanwhile."""
        for node in self.nodes:
            command = f"sudo mkdir -p {self.place} && sudo tee {self.place}/main.py >/dev/null"
            self.machines.ssh(node, command, stdin=self.main)
        flow = self.api.request("POST", "/flows/", {"name": self.name})
        wanted = {
            "name": self.name,
            "flow_id": flow["id"],
            "work_pool_name": self.work_pool,
            "entrypoint": self.entrypoint,
            "path": self.place,
            # Prefect 3.4 takes parameters only with a schema.
            "parameter_openapi_schema": {"type": "object", "properties": {}},
            "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": self.place}}],
            "job_variables": {
                "command": "/opt/prefect/pixi-env/run python -m prefect.engine",
                "working_dir": self.place,
            },
        }
        self.api.request("POST", "/deployments/", wanted)
        try:
            yield
        finally:
            with contextlib.suppress(ApiError):
                self.api.request("DELETE", f"/flows/{flow['id']}")
            for node in self.nodes:
                self.machines.ssh(node, f"sudo rm -rf {_FLOWS}/{self.name} /opt/prefect/storage/{self.name}*")

    def start_with(self, parameters: dict[str, Any], **variables: Any) -> str:
        """Create a run with these job variables, due now, and return its id."""
        deployment = self.api.request("GET", f"/deployments/name/{self.name}/{self.name}")["id"]
        body = {"state": {"type": "SCHEDULED"}, "parameters": parameters, "job_variables": variables}
        return str(self.api.request("POST", f"/deployments/{deployment}/create_flow_run", body)["id"])

    def wait_for(self, run: str, *names: str, seconds: float = 300) -> dict[str, Any]:
        """Wait until a run's state has one of the names."""
        deadline = time.monotonic() + seconds
        while (found := dict(self.api.request("GET", f"/flow_runs/{run}")))["state_name"] not in names:
            assert time.monotonic() < deadline, found["state"]
            time.sleep(0.2)
        return found

    def crashed(self, run: str, message: str, seconds: float = 300) -> None:
        """Wait until a run is Crashed, and its state has *message* in it: Prefect's own comes a moment before."""
        deadline = time.monotonic() + seconds
        while message not in (state := self.wait_for(run, "Crashed", seconds=seconds)["state"])["message"]:
            assert time.monotonic() < deadline, state
            time.sleep(0.2)

    def cancel(self, run: str) -> None:
        """Cancel a run and wait until it is."""
        body = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": False}
        self.api.request("POST", f"/flow_runs/{run}/set_state", body)
        self.wait_for(run, "Cancelled")

    def unit_of(self, run: str, seconds: float = 180) -> tuple[str, str]:
        """Return the node and the unit of a run, once it has one."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for node in self.nodes:
                listed = f"systemctl list-units --plain --no-legend --state=active 'flow-run-{run}-*'"
                if found := self.machines.ssh(node, listed).split():
                    return node, found[0]
            time.sleep(0.2)
        raise AssertionError(f"The run {run} has no unit.")
