"""The site's own files: what an operator writes into inventory.yml and secrets.yml."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass

from machines import Machines

SERVER = "pag-server"
CPU_WORKERS = ("pag-worker-1", "pag-worker-2")
GPU_WORKERS = ("pag-worker-2",)
FLOW_USER = "eo-team"
"""Whom flow runs may be in the place of the service user."""


@dataclass(frozen=True)
class Secrets:
    """The logins of one cluster, made for it and known to nobody else."""

    basic_auth: str
    database_password: str

    def to_yaml(self) -> str:
        """Return secrets.yml."""
        return f'prefect_basic_auth_key: "{self.basic_auth}"\npostgresql_password: "{self.database_password}"\n'


def secrets_of(machines: Machines) -> Secrets:
    """Return the cluster's secrets; they are made when it has none, and kept in a private file beside its machines."""
    file = machines.directory / "secrets.json"
    if not file.exists():
        content = {"basic_auth": f"admin:{secrets.token_urlsafe(12)}", "database_password": secrets.token_urlsafe(18)}
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            json.dump(content, stream)
    return Secrets(**json.loads(file.read_text()))


def inventory(
    cpu_workers: tuple[str, ...] = CPU_WORKERS, gpu_workers: tuple[str, ...] = GPU_WORKERS, **variables: object
) -> str:
    """Return inventory.yml: one server, CPU workers, GPU workers with two devices each, and variables of all."""
    lines = ["all:", "  vars:", f"    flow_users: [{FLOW_USER}]"]
    lines += [f"    {name}: {json.dumps(value)}" for name, value in variables.items()]
    lines += ["  children:"]
    lines += ["    prefect_servers:", "      hosts:", f"        {SERVER}:"]
    lines += ["    prefect_workers:", "      children:", "        prefect_workers_cpu:", "          hosts:"]
    lines += [f"            {name}:" for name in cpu_workers]
    lines += ["        prefect_workers_gpu:", "          hosts:"]
    for name in gpu_workers:
        lines += [f"            {name}:", '              worker_gpu_ids: "0,1"']
    return "\n".join(lines) + "\n"


def inventory_of(machines: Machines, **variables: object) -> str:
    """Return an inventory of the cluster's machines: every worker serves CPU runs, the last one GPU runs too."""
    workers = sorted(name for name in machines.addresses() if name.startswith("pag-worker-"))
    return inventory(tuple(workers), tuple(workers[-1:]), **variables)
