"""The linters, as tests: one command runs everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lint


def _assert_clean(command: list[str], repository: Path) -> None:
    finished = subprocess.run(command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert finished.returncode == 0, f"{' '.join(command)}\n{finished.stdout}"


def _shell_scripts(repository: Path) -> list[str]:
    """Return the repository's shell scripts, known by their first line."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    found = []
    for name in tracked:
        file = repository / name
        if file.is_file() and file.suffix != ".py":
            with file.open("rb") as stream:
                if stream.readline().rstrip() in {b"#!/bin/sh", b"#!/bin/bash", b"#!/usr/bin/env bash"}:
                    found.append(name)
    return found


def test_ruff(repository: Path) -> None:
    _assert_clean(["ruff", "check", "."], repository)


def test_ruff_format(repository: Path) -> None:
    _assert_clean(["ruff", "format", "--check", "."], repository)


def test_mypy(repository: Path) -> None:
    _assert_clean([sys.executable, "-m", "mypy"], repository)


@pytest.mark.parametrize("directory", ["molecule/testbed", "molecule/shared"])
def test_mypy_of_the_test_machines(repository: Path, directory: str) -> None:
    # Programs of their own, whose modules find each other in their directory.
    files = sorted(file.name for file in (repository / directory).glob("*.py"))
    command = [sys.executable, "-m", "mypy", "--config-file", str(repository / "pyproject.toml"), *files]
    _assert_clean(command, repository / directory)


def test_ansible_lint(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # ansible/ansible.cfg says the same for operators, who are in that directory.
    for name, directory in (("LIBRARY", "library"), ("MODULE_UTILS", "module_utils"), ("ROLES_PATH", "roles")):
        monkeypatch.setenv(f"ANSIBLE_{name}", str(repository / "ansible" / directory))
    monkeypatch.setenv("NO_COLOR", "1")
    _assert_clean(["ansible-lint", "--offline", "--strict"], repository)


def test_yamllint(repository: Path) -> None:
    _assert_clean(["yamllint", "--strict", "."], repository)


def test_shellcheck(repository: Path) -> None:
    scripts = _shell_scripts(repository)
    assert {"demo.sh", "test.sh", ".ci/run"} <= set(scripts)
    _assert_clean(["shellcheck", *scripts], repository)
