"""The program that compiles an environment's code, which root runs while the environment is installed."""

from __future__ import annotations

import json
import subprocess
import venv
from pathlib import Path

import pytest

from airgap.bytecode import compile_command

pytestmark = pytest.mark.process


def test_nothing_of_the_environment_runs(tmp_path: Path) -> None:
    prefix, ran = tmp_path / "env", tmp_path / "ran"
    venv.create(prefix, symlinks=True)
    (library,) = prefix.glob("lib/python*/site-packages")
    writes = f"open({str(ran)!r}, 'w').close()"
    (library / "evil.pth").write_text(f"import sys; {writes}\n")
    (library / "sitecustomize.py").write_text(f"{writes}\n")
    python = prefix / "bin/python"
    # What is there does run where nothing keeps it from that.
    subprocess.run([python, "-I", "-c", ""], check=True)
    assert ran.exists()
    ran.unlink()
    module = library / "module.py"
    module.write_text("VALUE = 1\n")
    subprocess.run(compile_command(python), input=json.dumps([str(module)]), text=True, check=True)
    assert list(library.glob("__pycache__/module.*.pyc"))
    assert not ran.exists()
