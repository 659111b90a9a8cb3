"""Import an entrypoint in its own environment and print what Prefect says of it, as one line of JSON.

Called on a worker with the flow's own Python, in the code's directory, with a list of deployments (JSON) on its
input, of which ``entrypoint`` and ``parameters`` are used. Prints
``{"flows": {entrypoint: {"name", "description", "parameter_schema"}}}`` or ``{"error": sentence}``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def describe(entrypoint: str) -> dict[str, Any]:
    """Return what a deployment needs to know of the flow at *entrypoint*. Raises ValueError with a sentence."""
    from prefect import Flow
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.importtools import import_object

    try:
        found = import_object(entrypoint)
    except AttributeError as error:
        raise ValueError(f"the file has no function {entrypoint.rpartition(':')[2]}") from error
    except BaseException as error:  # whatever a program may do when it is imported, exit included
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        message = " ".join(str(cause).split())[:300]
        raise ValueError(f"importing it in its environment raises {type(cause).__name__}: {message}") from error
    if not isinstance(found, Flow):
        raise ValueError("it is no flow: decorate the function with @flow")
    return {
        "name": found.name,
        "description": found.description,
        "parameter_schema": parameter_schema(found).model_dump_for_openapi(),
    }


def check_parameters(parameters: dict[str, Any], schema: dict[str, Any]) -> None:
    """Raise ValueError with a sentence when the flow does not take *parameters*."""
    from prefect.utilities.schema_tools import ValidationError, validate

    unknown = sorted(set(parameters) - set(schema["properties"]))
    if unknown:
        known = ", ".join(schema["properties"]) or "none"
        raise ValueError(f"it has no parameter {', '.join(unknown)} (it has {known})")
    try:
        validate(parameters, schema, raise_on_error=True, ignore_required=True)
    except ValidationError as error:
        raise ValueError(f"its default parameters do not fit: {' '.join(str(error).split())}") from error


def main() -> None:
    """Print the answer as the last line, whatever the flow's own code prints at import."""
    answer: dict[str, Any] = {"flows": {}}
    # What a worker's flow run has as its import path.
    sys.path.insert(0, str(Path.cwd()))
    for deployment in json.load(sys.stdin):
        entrypoint = deployment["entrypoint"]
        try:
            description = describe(entrypoint)
            check_parameters(deployment["parameters"] or {}, description["parameter_schema"])
        except ValueError as error:
            answer = {"error": f"The entrypoint {entrypoint} cannot be used: {error}."}
            break
        answer["flows"][entrypoint] = description
    print(f"\n{json.dumps(answer)}", flush=True)
    # A flow's own threads do not keep this program alive.
    os._exit(0)


if __name__ == "__main__":
    main()
