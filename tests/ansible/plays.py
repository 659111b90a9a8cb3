"""Plays that Ansible runs on this host, with the project's modules and action plugins."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"

# Each runs a playbook, for seconds.
PLAYS = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("ansible-playbook") is None, reason="needs ansible-playbook"),
]


def run(
    directory: Path, tasks: list[dict[str, Any]], *options: str, **variables: Any
) -> subprocess.CompletedProcess[str]:
    """Run *tasks* in *directory*; with *options* such as ``--check``."""
    variables["ansible_python_interpreter"] = sys.executable
    play = {"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": tasks}
    (directory / "play.yml").write_text(yaml.safe_dump([play]))
    return subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "-c", "local", *options, "play.yml"],
        cwd=directory,
        env=os.environ
        | {
            "ANSIBLE_LIBRARY": str(ANSIBLE / "library"),
            "ANSIBLE_ACTION_PLUGINS": str(ANSIBLE / "action_plugins"),
            "TMPDIR": str(directory),
        },
        capture_output=True,
        text=True,
    )
