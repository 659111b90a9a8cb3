"""Run programs, and fail with what they said."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class TestbedError(Exception):
    """Something about the machines that whoever runs them can act on; the message is one sentence."""

    __test__ = False  # the name starts like a test class's


def run(
    arguments: Sequence[str | Path],
    *,
    check: bool = True,
    stdin: str | None = None,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program and return what it printed.

    With *log*, its output is appended to that file instead. Raises TestbedError when it fails, unless *check* is False.
    """
    command = [str(argument) for argument in arguments]
    try:
        if log is None:
            finished = subprocess.run(
                command, input=stdin, capture_output=True, text=True, env=environment, timeout=timeout
            )
        else:
            with log.open("a") as stream:
                finished = subprocess.run(
                    command, input=stdin, stdout=stream, stderr=stream, text=True, env=environment, timeout=timeout
                )
    except FileNotFoundError:
        raise TestbedError(f"{command[0]} is not installed: install the package that has it.") from None
    except subprocess.TimeoutExpired:
        raise TestbedError(f"{shlex.join(command)} did not end within {timeout:.0f} s.") from None
    if check and finished.returncode != 0:
        said = f"see {log}" if log else (finished.stderr or finished.stdout).strip()
        raise TestbedError(f"{shlex.join(command)} failed with {finished.returncode}: {said}")
    return finished
