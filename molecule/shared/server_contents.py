"""What a server has that a backup must bring back, made and read through its API."""

from __future__ import annotations

from typing import Any

from prefect_api import ApiError, PrefectApi

VARIABLE, LIMIT, BLOCK = "pag-kept-variable", "pag-kept-limit", "pag-kept-secret"
SECRET = "the word that must be readable again"
_SAMPLE = 5


def make(api: PrefectApi) -> None:
    """Make a variable, a global concurrency limit and a secret block; those that are there stay."""
    block_type = api.request("GET", "/block_types/slug/secret")
    schemas = {"block_schemas": {"block_type_id": {"any_": [block_type["id"]]}}}
    schema = api.request("POST", "/block_schemas/filter", schemas)[0]
    block = {
        "name": BLOCK,
        "block_type_id": block_type["id"],
        "block_schema_id": schema["id"],
        "data": {"value": SECRET},
    }
    for path, body in (
        ("/variables/", {"name": VARIABLE, "value": {"answer": 42}}),
        ("/v2/concurrency_limits/", {"name": LIMIT, "limit": 3}),
        ("/block_documents/", block),
    ):
        try:
            api.request("POST", path, body)
        except ApiError as error:
            if "answered 409" not in str(error):
                raise


def read(api: PrefectApi, runs: list[str]) -> dict[str, Any]:
    """Return what the server has: the same before and after, when nothing is lost. *runs* are ids."""
    deployments = api.deployments()
    block = api.request("GET", f"/block_types/slug/secret/block_documents/name/{BLOCK}?include_secrets=true")
    return {
        "deployments": sorted((entry["name"], entry["path"], str(entry["schedules"])) for entry in deployments),
        "variable": api.request("GET", f"/variables/name/{VARIABLE}")["value"],
        "limit": api.request("GET", f"/v2/concurrency_limits/{LIMIT}")["limit"],
        "limits": sorted(entry["name"] for entry in api.request("POST", "/v2/concurrency_limits/filter", {})),
        "secret": block["data"]["value"],
        "pools": sorted(pool["name"] for pool in api.work_pools()),
        "runs": {run: api.request("GET", f"/flow_runs/{run}")["state_type"] for run in runs},
        "logs": {run: api.logs(run) for run in runs[:_SAMPLE]},
    }


def remove(api: PrefectApi) -> None:
    """Remove what :func:`make` made."""
    block = api.request("GET", f"/block_types/slug/secret/block_documents/name/{BLOCK}")
    api.request("DELETE", f"/block_documents/{block['id']}")
    api.request("DELETE", f"/variables/name/{VARIABLE}")
    api.request("DELETE", f"/v2/concurrency_limits/{LIMIT}")
