from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airgap.sources.conda import CondaSource
from airgap.targets import parse_target

CHANNEL = "https://channels.example/forge"


def record(name: str, version: str, *, build: str = "h0_0", subdir: str = "linux-64", **more: Any) -> dict[str, Any]:
    file_name = f"{name}-{version}-{build}.conda"
    return {
        "name": name, "version": version, "build": build, "build_number": 0, "subdir": subdir, "depends": [],
        "fn": file_name, "url": f"{CHANNEL}/{subdir}/{file_name}", "sha256": "ab" * 32, "md5": "12e4" * 8, "size": 7,
    } | more  # fmt: skip


def run(repository: Path, project: Path, records: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    (project / "records.json").write_text(json.dumps(records))
    command = [sys.executable, str(repository / "tools/lock_conda.py"), "--records", str(project / "records.json")]
    return subprocess.run([*command, str(project)], capture_output=True, text=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pixi.toml").write_text(
        f'[workspace]\nchannels = ["{CHANNEL}"]\nplatforms = ["linux-64"]\n'
        '[dependencies]\npython = "3.12.*"\nflow = "*"\n'
    )
    return tmp_path


def test_writes_a_lock_that_reads_back_as_the_records(repository: Path, project: Path) -> None:
    records = [
        record("python", "3.11.9"),
        record("python", "3.12.1", build_number=7),
        record("python", "3.13.0"),
        # A hash that YAML readers may take for a number.
        record(
            "flow", "1.0", subdir="noarch", noarch="python", depends=["python >=3.10", "six"], sha256="1" * 63 + "0"
        ),
        record("six", "1.16", subdir="noarch", noarch="python", license="MIT"),
    ]
    assert run(repository, project, records).returncode == 0
    text = (project / "pixi.lock").read_text()
    assert text.startswith(f"version: 6\nenvironments:\n  default:\n    channels:\n    - url: {CHANNEL}/\n")
    locked = CondaSource({}).resolve(project / "pixi.lock", "default", parse_target("debian-12"))
    assert {download.name: download.version for download in locked.conda} == {
        "python": "3.12.1", "flow": "1.0", "six": "1.16",
    }  # fmt: skip
    expected = {entry["url"]: entry for entry in records}
    for download in locked.conda:
        assert download.record is not None
        for key in ("sha256", "md5", "size", "depends", "build", "build_number"):
            assert download.record[key] == expected[download.url][key], (download.name, key)


def test_says_what_cannot_be_solved_and_keeps_the_old_lock(repository: Path, project: Path) -> None:
    (project / "pixi.lock").write_text("old")
    finished = run(repository, project, [record("python", "3.11.9"), record("flow", "1.0")])
    assert finished.returncode == 1
    assert "cannot be solved for linux-64" in finished.stderr
    assert (project / "pixi.lock").read_text() == "old"
