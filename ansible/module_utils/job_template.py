"""What runs of a work pool for processes can be given: Prefect's own variables and ours. Standard library only.

A pool that was created through the API has no template until its first worker brings Prefect's; one that has a template
gets our variables into it, and keeps the rest.
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


def with_limits(template: Mapping[str, Any], defaults: Mapping[str, str]) -> dict[str, Any]:
    """Return a pool's *template* with the limits as variables; *defaults* are the pool's, as they were read."""
    result = copy.deepcopy(dict(template)) or {
        "job_configuration": {name: _reference(name) for name in _PREFECTS},
        "variables": {"type": "object", "properties": copy.deepcopy(_PREFECTS)},
    }
    properties = result.setdefault("variables", {"type": "object"}).setdefault("properties", {})
    configuration = result.setdefault("job_configuration", {})
    for name in NAMES:
        before = properties.get(name, {}).get("default")
        properties[name] = {**copy.deepcopy(_OURS[name]), "default": _value(name, defaults.get(name), before)}
        configuration[name] = _reference(name)
    return result


def _value(name: str, wanted: str | None, before: Any) -> Any:
    if wanted is None:
        return before  # as it was set in the user interface
    return wanted if name == "memory_max" else int(wanted)


def _reference(name: str) -> str:
    return f"{{{{ {name} }}}}"
