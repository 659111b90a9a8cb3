"""The scripts beside an installed environment: ``activate.sh`` to source, ``run`` to start a program in it.

Written by us, as the library's generator bakes the caller's PATH into its script.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
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
    contents = [file.read_bytes() for file in sorted((directory / "env").glob("etc/conda/env_vars.d/*.json"))]
    for file_name, text in activation_texts(directory, name, contents).items():
        file = directory / file_name
        file.write_text(text, encoding="utf-8")
        file.chmod(0o755 if file_name == "run" else 0o644)


def activation_texts(directory: Path, name: str, variables: Iterable[bytes]) -> dict[str, str]:
    """Return what is written into *directory*, by file name.

    *variables* are the contents of ``etc/conda/env_vars.d/*.json`` in the order of their names, later ones winning.
    """
    exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in sorted(_merged(variables).items()))
    prefix = shlex.quote(str(directory / "env"))
    return {
        "activate.sh": _ACTIVATE.format(name=shlex.quote(name), prefix=prefix, variables=exports),
        "run": _RUN.format(directory=shlex.quote(str(directory))),
    }


def _merged(contents: Iterable[bytes]) -> dict[str, str]:
    """Return the variables that packages ask for."""
    variables: dict[str, str] = {}
    for content in contents:
        for key, value in json.loads(content).items():
            if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
                variables[key] = str(value)
    return variables
