"""The API fuzzer, in an environment of its own: what it needs is not among the tests' own tools."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raw_http import Door

_HERE = Path(__file__).resolve().parent
_REQUIREMENTS = _HERE.parent.parent / "requirements/fuzz.txt"
_CONFIGURATION = """
[auth]
basic = { username = "${PAG_FUZZ_USER}", password = "${PAG_FUZZ_PASSWORD}" }
"""


@dataclass(frozen=True)
class Fuzzed:
    """What a run of the fuzzer was answered."""

    answers: list[dict[str, Any]]
    returncode: int
    output: str

    @property
    def statuses(self) -> Counter[int]:
        """How often each status came; 0 is no answer."""
        return Counter(answer["status"] for answer in self.answers)


def environment() -> Path:
    """Return the directory of the fuzzer's programs; it is made when the lock or the interpreter is new."""
    key = hashlib.sha256(_REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pag"
    made = cache / f"fuzz-{key}"
    if not (made / ".complete").exists():
        shutil.rmtree(made, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", made], check=True)
        install = [Path(sys.executable).parent / "uv", "pip", "install", "--quiet", "--no-config", "--no-deps"]
        install += ["--require-hashes", "--python", made / "bin/python", "--requirement", _REQUIREMENTS]
        subprocess.run(install, check=True)
        (made / ".complete").touch()
    return made / "bin"


def fuzz(
    door: Door, schema: bytes, directory: Path, *, seconds: int, seed: int, canary: str, login: str | None = None
) -> Fuzzed:
    """Ask everything that the schema names for that long; without a login, as somebody who has none."""
    (directory / "openapi.json").write_bytes(schema)
    configuration = directory / "schemathesis.toml"
    configuration.write_text("" if login is None else _CONFIGURATION)
    answers = directory / "answers.jsonl"
    answers.touch()
    user, _, password = (login or "").partition(":")
    given = {
        # The login is in no process list.
        "PAG_FUZZ_USER": user,
        "PAG_FUZZ_PASSWORD": password,
        "PAG_FUZZ_CANARY": canary,
        "PAG_FUZZ_ANSWERS": str(answers),
        "SCHEMATHESIS_HOOKS": "fuzz_hooks",
        "PYTHONPATH": str(_HERE),
        "NO_PROXY": "*",
    }
    command: Sequence[str | Path] = [
        *(environment() / "schemathesis", "--config-file", configuration),
        *("run", directory / "openapi.json", "--url", f"https://localhost:{door.port}/api"),
        *("--tls-verify", door.authorities, "--max-redirects", "0", "--request-timeout", "60"),
        *("--max-time", str(seconds), "--seed", str(seed), "--workers", "2"),
        *("--checks", "the_proxy_had_an_answer", "--continue-on-failure", "--no-shrink", "--no-color"),
        *("--suppress-health-check", "all", "--warnings", "off", "--generation-database", "none"),
    ]
    finished = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **given},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3 * seconds + 300,
    )
    (directory / "output.txt").write_text(finished.stdout)
    found = [json.loads(line) for line in answers.read_text().splitlines()]
    return Fuzzed(found, finished.returncode, finished.stdout)
