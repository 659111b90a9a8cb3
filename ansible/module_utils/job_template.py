"""The base job template of a work pool for processes: Prefect's own job variables and ours. Standard library only.

A pool that was created through the API has no template until its first worker brings Prefect's; one that has a template
gets our variables into it, and keeps the rest. The format: https://docs.prefect.io/v3/concepts/work-pools.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.run_limits import NAMES

_TEXT = [{"type": "string"}, {"type": "null"}]
_NUMBER = [{"type": "integer"}, {"type": "null"}]

_PREFECTS: dict[str, dict[str, Any]] = {
    "name": {"title": "Name", "description": "Name of what a worker starts.", "anyOf": _TEXT, "default": None},
    "env": {
        "title": "Environment Variables",
        "description": "Environment variables of a flow run.",
        "type": "object",
        "additionalProperties": {"anyOf": _TEXT},
    },
    "labels": {
        "title": "Labels",
        "description": "Labels of what a worker starts.",
        "type": "object",
        "additionalProperties": {"type": "string"},
    },
    "command": {
        "title": "Command",
        "description": "What a worker runs for a flow run; best left empty.",
        "anyOf": _TEXT,
        "default": None,
    },
    "stream_output": {
        "title": "Stream Output",
        "description": "Whether the worker's journal has what a flow run prints.",
        "type": "boolean",
        "default": True,
    },
    "working_dir": {
        "title": "Working Directory",
        "description": "Where a flow run starts; a directory of its own by default.",
        "anyOf": [{"type": "string", "format": "path"}, {"type": "null"}],
        "default": None,
    },
}
_OURS: dict[str, dict[str, Any]] = {
    "memory_max": {
        "title": "Memory",
        "description": "How much memory a run may use, for example 4G or 50%; a run that needs more is ended.",
        "anyOf": _TEXT,
    },
    "cpu_weight": {
        "title": "CPU Weight",
        "description": "The run's share of busy processors, from 1 to 10000; 100 is what others have.",
        "anyOf": _NUMBER,
    },
    "tasks_max": {
        "title": "Processes",
        "description": "How many processes and threads a run may have at the same time.",
        "anyOf": _NUMBER,
    },
    "time_max": {"title": "Time", "description": "After how many seconds a run is ended.", "anyOf": _NUMBER},
}


def variables_of(template: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the job variables of a pool's template, each with its JSON schema."""
    return dict(((template or {}).get("variables") or {}).get("properties") or {})


def with_variables(template: Mapping[str, Any] | None, variables: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the template with these variables; a default that was set on the server stays, as everything else does."""
    result = _with_prefects(template)
    properties = result["variables"]["properties"]
    for name, wanted in variables.items():
        found = properties.get(name, {})
        properties[name] = wanted | ({"default": found["default"]} if "default" in found else {})
        result["job_configuration"].setdefault(name, _reference(name))
    return result


def with_limits(template: Mapping[str, Any] | None, defaults: Mapping[str, str]) -> dict[str, Any]:
    """Return the template with the limits as variables; *defaults* are the pool's, as they were read."""
    result = _with_prefects(template)
    properties = result["variables"]["properties"]
    for name in NAMES:
        before = properties.get(name, {}).get("default")
        properties[name] = {**copy.deepcopy(_OURS[name]), "default": _value(name, defaults.get(name), before)}
        result["job_configuration"][name] = _reference(name)
    return result


def _with_prefects(template: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy of the template; one without variables has those of processes."""
    result = copy.deepcopy(dict(template or {}))
    if not variables_of(result):
        result.setdefault("job_configuration", {}).update({name: _reference(name) for name in _PREFECTS})
        result["variables"] = {"type": "object", "properties": copy.deepcopy(_PREFECTS)}
    result.setdefault("job_configuration", {})
    return result


def _value(name: str, wanted: str | None, before: Any) -> Any:
    if wanted is None:
        return before  # as it was set in the user interface
    return wanted if name == "memory_max" else int(wanted)


def _reference(name: str) -> str:
    return f"{{{{ {name} }}}}"
