#!/usr/bin/env python3
"""Build the software bundle for an airgapped cluster: ``python3 build-bundle.py``.

Makes the builder's own virtual environment in the cache (once for each requirements/builder.txt), from hash-locked
wheels, and hands over to airgap.cli in it. Standard library only, no root, no changes to the host but the cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parent
_MARKER = "complete"
# Loads what a build loads, and asks pip for its configuration, so that bytecode and answer are there from the first
# build on.
_LOAD = """
import sys
from pathlib import Path
import airgap.assemble, airgap.build, airgap.cli, airgap.fetch, airgap.licences, airgap.resolve, jsonschema
from airgap.errors import AirgapError
from airgap.network import pip_network
try:
    pip_network(Path(sys.argv[1]))
except AirgapError:
    pass  # the build tells
"""


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


def _values(arguments: Sequence[str], option: str) -> list[str]:
    """Return what *arguments* give for *option*, each time that it is there."""
    values = []
    for position, argument in enumerate(arguments):
        if argument.startswith(f"{option}="):
            values.append(argument.partition("=")[2])
        elif argument == option and position + 1 < len(arguments):
            values.append(arguments[position + 1])
    return values


def _pip_variables(arguments: Sequence[str]) -> dict[str, str]:
    """Return the variables that tell pip what *arguments* say of the network, where they do."""
    variables: dict[str, str] = {}
    if indexes := _values(arguments, "--index"):
        # Empty is an answer too: the indexes that pip is configured for besides are not asked then.
        variables |= {"PIP_INDEX_URL": indexes[0], "PIP_EXTRA_INDEX_URL": " ".join(indexes[1:])}
    for option, name in (("--proxy", "PIP_PROXY"), ("--ca-file", "PIP_CERT")):
        if values := _values(arguments, option):
            variables[name] = values[-1]
    return variables


def _cache(arguments: Sequence[str]) -> Path:
    """Return the cache directory: --cache, else as airgap.cache.default_cache says."""
    for value in _values(arguments, "--cache"):
        return Path(value).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pag"


def _has_venv() -> bool:
    try:
        import ensurepip  # noqa: F401  Debian packages it apart
        import venv  # noqa: F401
    except ImportError:
        return False
    return True


def _own_variables(directory: Path) -> dict[str, str]:
    """Return the variables for Python in the environment at *directory*: bytecode goes there, not into the checkout."""
    return {"PYTHONPATH": str(_ROOT), "PYTHONPYCACHEPREFIX": str(directory / "bytecode")}


def _make_environment(directory: Path, requirements: Path, cache: Path, arguments: Sequence[str]) -> str | None:
    """Make the virtual environment in *directory*; return what went wrong, or None."""
    # Only now: this happens once.
    import shutil
    import subprocess

    if not _has_venv():
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        return f"Python's venv module is not complete on this host: install it (apt install {package})."
    if "--quiet" not in arguments:
        print("Preparing the builder's own environment", file=sys.stderr, flush=True)
    shutil.rmtree(directory, ignore_errors=True)
    # The builder has its own environment: one that is active around it must not reach in.
    others = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE")
    variables = {name: value for name, value in os.environ.items() if name not in others}
    python = directory / "bin" / "python"
    # fmt: off
    commands = (
        [sys.executable, "-m", "venv", str(directory)],
        [
            str(python), "-m", "pip", "install",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
            "--only-binary", ":all:",
            "--no-compile",
            "--requirement", str(requirements),
        ],
        [str(python), "-c", _LOAD, str(cache)],
    )
    # fmt: on
    for command in commands:
        own = _own_variables(directory) if _LOAD in command else _pip_variables(arguments)
        completed = subprocess.run(
            command, env=variables | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if completed.returncode:
            lines = [line for line in completed.stdout.splitlines() if line.strip()]
            reason = next((line for line in reversed(lines) if line.startswith("ERROR:")), (lines or ["no reason"])[-1])
            # pip masks passwords, but shows tokens in paths.
            from airgap.addresses import redact_text

            reason = redact_text(reason)
            return (
                f"the builder's own packages could not be installed ({reason.removeprefix('ERROR: ').rstrip('.')}): "
                "check that pip reaches a package index (pip config debug) and start again."
            )
    (directory / _MARKER).touch()
    return None


def main(arguments: Sequence[str]) -> int:
    """Hand over to the command line in the builder's environment; return an exit status only when that fails."""
    if sys.version_info < (3, 10):  # noqa: UP036  this file is what an older Python is started with
        return _fail(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}: start it with a newer one.")
    requirements = _ROOT / "requirements" / "builder.txt"
    try:
        content = requirements.read_bytes()
    except OSError as error:
        return _fail(f"{requirements} cannot be read ({error.strerror}): use a complete checkout.")
    digest = hashlib.sha256(content + f"{sys.version_info[:2]} {sys.executable}".encode()).hexdigest()[:12]
    cache = _cache(arguments)
    directory = cache / f"builder-{digest}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f"builder-{digest}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (directory / _MARKER).exists() and (
                problem := _make_environment(directory, requirements, cache, arguments)
            ):
                return _fail(problem)
    except OSError as error:
        return _fail(f"the cache {cache} cannot be written to ({error.strerror}): name another one with --cache.")
    except KeyboardInterrupt:
        print("Interrupted while preparing; start again to go on.", file=sys.stderr)
        return 130
    os.environ.update(_own_variables(directory))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    python = str(directory / "bin" / "python")
    os.execv(python, [python, "-m", "airgap.cli", *arguments])  # noqa: S606  this process has nothing left to do
    raise AssertionError  # execv does not return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
