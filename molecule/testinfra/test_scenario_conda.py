"""Environments whose Python is a conda package."""

from __future__ import annotations

import json
from collections.abc import Callable

from testinfra.host import Host

On = Callable[[str], Host]


def test_the_bundle_says_that_python_is_a_conda_package(on: On) -> None:
    manifest = json.loads(on("pag-controller").file("/opt/pag/manifest.json").content_string)
    assert manifest["interpreter"] == "conda"
    flows = [environment for environment in manifest["environments"] if environment["flow"]]
    assert {environment["interpreter"] for environment in flows} == {"conda"}


def test_python_is_the_environments_own(on: On) -> None:
    host = on("pag-worker-1")
    (environment,) = host.check_output("find /opt/prefect/envs -maxdepth 1 -name 'demo2-*'").split()
    script = "import os, sys, cowpy; print(os.path.realpath(sys.executable)); print(cowpy.__file__); print(sys.prefix)"
    said = host.check_output(f"{environment}/env/bin/python -c '{script}'").split()
    assert all(line.startswith(f"{environment}/env") for line in said), said


def test_the_server_runs_from_conda_packages(on: On) -> None:
    environment = on("pag-server").file("/opt/prefect/pixi-env").linked_to
    records = on("pag-server").check_output(f"ls {environment}/env/conda-meta").split()
    assert any(record.startswith("prefect-3.") for record in records)
