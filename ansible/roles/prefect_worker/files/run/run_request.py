"""What a worker asks for when it has a run started. Standard library only."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_BORDER = "--"
# As CUDA_VISIBLE_DEVICES names them; the lock has a file of that name.
_GPU = re.compile("[A-Za-z0-9-]+")


@dataclass
class Request:
    """A run that is asked for."""

    directory: str
    """Where the worker would start it."""
    command: list[str]
    environment: dict[str, str]
    """The worker's own, with what it gives to the run."""
    run: str = ""
    name: str = ""
    flow: str = ""
    user: str = ""
    """Who it is; the service user when empty."""
    limits: dict[str, str] = field(default_factory=dict)
    gpus: list[str] = field(default_factory=list)
    """Which it has leased."""


def read_request(asked: Sequence[bytes], variables: Sequence[bytes]) -> Request:
    """Return what the client asks for: its directory, its arguments, and its environment. Raises ValueError."""
    directory, *arguments = map(os.fsdecode, asked)
    border = arguments.index(_BORDER)
    pairs = [os.fsdecode(variable).split("=", 1) for variable in variables if b"=" in variable]
    request = Request(directory, arguments[border + 1 :], dict(pairs))
    for argument in arguments[:border]:
        option, _, value = argument.removeprefix("--").partition("=")
        if option == "limit":
            name, _, amount = value.partition("=")
            request.limits[name] = amount
        elif option == "gpu":
            if not _GPU.fullmatch(value):
                raise ValueError(f"no GPU is called {value!r}")
            request.gpus.append(value)
        elif option in ("run", "name", "flow", "user"):
            setattr(request, option, value)
        else:
            raise ValueError(f"there is no option --{option}")
    return request
