"""The scripts beside an installed environment: ``activate.sh`` to source, ``run`` to start a program in it.

Written by us, as the library's generator bakes the caller's PATH into its script.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

_ACTIVATE = """\
# Source this file in sh or bash to use the environment {name}; sourcing it again changes nothing more.
CONDA_PREFIX={prefix}
CONDA_DEFAULT_ENV={name}
CONDA_SHLVL=1
export CONDA_PREFIX CONDA_DEFAULT_ENV CONDA_SHLVL
case "$PATH:" in
    "$CONDA_PREFIX/bin:"*) ;;
    *) PATH="$CONDA_PREFIX/bin:$PATH" && export PATH ;;
esac
unset PYTHONHOME
# Prefect reports its use to its makers unless it is told not to.
DO_NOT_TRACK=1
export DO_NOT_TRACK
{variables}for pag_script in "$CONDA_PREFIX"/etc/conda/activate.d/*.sh; do
    if [ -r "$pag_script" ]; then
        . "$pag_script"
    fi
done
unset pag_script
hash -r 2>/dev/null || true
"""

_RUN = """\
#!/bin/sh
# Runs a program with the environment activated: {directory}/run python -m something
. {directory}/activate.sh
exec "$@"
"""


def write_activation(directory: Path, name: str) -> None:
    """Write ``activate.sh`` and ``run`` into *directory*, for the environment *name* in its ``env/``."""
    prefix = directory / "env"
    variables = "".join(
        f"export {key}={shlex.quote(value)}\n" for key, value in sorted(_environment_variables(prefix).items())
    )
    activate = directory / "activate.sh"
    activate.write_text(
        _ACTIVATE.format(name=shlex.quote(name), prefix=shlex.quote(str(prefix)), variables=variables), encoding="utf-8"
    )
    activate.chmod(0o644)
    run = directory / "run"
    run.write_text(_RUN.format(directory=shlex.quote(str(directory))), encoding="utf-8")
    run.chmod(0o755)


def _environment_variables(prefix: Path) -> dict[str, str]:
    """Return the variables that packages ask for in ``etc/conda/env_vars.d/*.json``, later files winning."""
    variables: dict[str, str] = {}
    for file in sorted(prefix.glob("etc/conda/env_vars.d/*.json")):
        for key, value in json.loads(file.read_text(encoding="utf-8")).items():
            if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
                variables[key] = str(value)
    return variables
