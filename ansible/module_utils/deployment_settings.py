"""The settings of a deployment as Prefect's API has them, and as the module ``prefect_deployment`` takes them."""

from __future__ import annotations

from typing import Any

# From where a run loads its flow. Without it, it would ask the server, which may have been told of another version
# since the worker has read the command.
ENTRYPOINT_VARIABLE = "PREFECT__FLOW_ENTRYPOINT"
# Job variables that say what a run is; the module sets them itself.
OWN_VARIABLES = ("command", "working_dir", "env")
# What a schedule is, without what the server notes of it.
_SCHEDULE_SETTINGS = ("schedule", "active", "slug", "parameters", "max_scheduled_runs")


def found_settings(deployment: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a deployment as the API gave it, in the form in which they are sent."""
    limit = deployment.get("global_concurrency_limit")
    return deployment | {"concurrency_limit": limit["limit"] if limit else deployment.get("concurrency_limit")}


def other_variables(deployment: dict[str, Any]) -> dict[str, Any]:
    """Return the job variables of a deployment beside those that say what a run is."""
    variables = deployment.get("job_variables") or {}
    return {key: value for key, value in variables.items() if key not in OWN_VARIABLES}


def options_of(deployment: dict[str, Any], flow_name: str) -> dict[str, Any]:
    """Return a deployment, as the API gave it, by the names of the options of the module prefect_deployment."""
    limit = found_settings(deployment)["concurrency_limit"]
    variables = deployment.get("job_variables") or {}
    env = variables.get("env") or {}
    return {
        "flow_name": flow_name,
        "work_pool": deployment.get("work_pool_name"),
        "env": {key: value for key, value in env.items() if key != ENTRYPOINT_VARIABLE},
        "job_variables": other_variables(deployment),
        "parameter_schema": deployment.get("parameter_openapi_schema"),
        "schedules": [
            {key: schedule[key] for key in _SCHEDULE_SETTINGS if schedule.get(key) is not None}
            for schedule in deployment.get("schedules") or []
        ],
        "concurrency_limit": -1 if limit is None else limit,
    } | {key: deployment.get(key) for key in ("name", "entrypoint", "parameters", "tags", "description", "version")}
