"""The entry point: what it does before the builder's own environment is there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_bundle", ROOT / "build-bundle.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return module


class HandedOver(Exception):  # noqa: N818  it is no error
    pass


def hand_over(_path: str, argv: list[str]) -> None:
    raise HandedOver(argv)


def test_makes_the_environment_once_and_hands_over(
    entry: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def make(directory: Path, requirements: Path, cache: Path, arguments: list[str]) -> None:
        made.append(directory)
        directory.mkdir()
        (directory / "complete").touch()

    monkeypatch.setattr(entry, "_make_environment", make)
    monkeypatch.setattr(os, "execv", hand_over)
    for _ in range(2):
        with pytest.raises(HandedOver) as raised:
            entry.main(["--cache", str(tmp_path), "--dry-run"])
        python, *rest = raised.value.args[0]
        assert rest == ["-m", "airgap.cli", "--cache", str(tmp_path), "--dry-run"]
        assert Path(python).parent.parent.parent == tmp_path
    assert len(made) == 1


def test_says_what_to_install_when_venv_is_missing(
    entry: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(entry, "_has_venv", lambda: False)
    assert entry.main([f"--cache={tmp_path}"]) == 1
    assert "apt install python3." in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_says_why_its_packages_cannot_be_had(
    entry: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def run(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        failed = "pip" in command
        return subprocess.CompletedProcess(command, int(failed), "ERROR: No matching distribution found for x.\nmore\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert entry.main([]) == 1
    error = capsys.readouterr().err
    assert "could not be installed (No matching distribution" in error
    assert not list(tmp_path.rglob("complete"))


def test_a_cache_that_cannot_be_written_to(
    entry: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert entry.main(["--cache", str(tmp_path / "file" / "cache")]) == 1
    assert "name another one with --cache" in capsys.readouterr().err


def test_what_the_command_line_says_of_the_network_counts_for_pip_too(entry: ModuleType) -> None:
    arguments = [
        "--index",
        "https://a.invalid/simple",
        "--index=https://b.invalid/simple",
        "--proxy",
        "http://p.invalid",
    ]
    assert entry._pip_variables([*arguments, "--ca-file=/ca.pem"]) == {
        "PIP_INDEX_URL": "https://a.invalid/simple",
        "PIP_EXTRA_INDEX_URL": "https://b.invalid/simple",
        "PIP_PROXY": "http://p.invalid",
        "PIP_CERT": "/ca.pem",
    }
    assert entry._pip_variables(["--target", "debian-12"]) == {}
