from __future__ import annotations

from pathlib import Path

import pytest
from test_locks import PYTHON, WHEEL, conda, pypi, write_lock
from wheels import lock_line

from airgap.errors import LockError
from airgap.lock_check import check_pixi_lock, check_requirements
from airgap.targets import parse_target

DEBIAN_12 = parse_target("debian-12")
COWPY = PYTHON.replace("linux-64/python-3.12.11-h9e4cc4f_0_cpython", "noarch/cowpy-1.1.5-pyhd8ed1ab_2")
WORKSPACE = '[workspace]\nname = "demo"\nchannels = ["conda-forge"]\nplatforms = ["linux-64"]\n'


def pixi(directory: Path, text: str, *, name: str = "pixi.toml", target: str = "debian-12") -> None:
    write_lock(directory, conda(PYTHON), conda(COWPY), pypi(WHEEL))
    (directory / name).write_text(text)
    check_pixi_lock(directory / "pixi.lock", parse_target(target))


def refusal(directory: Path, text: str, **arguments: str) -> str:
    with pytest.raises(LockError) as caught:
        pixi(directory, text, **arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    "dependencies",
    [
        'python = "3.12.*"\ncowpy = "*"',
        'Python = ">=3.12,<3.13"',
        'python = {version = "3.12.*", build = "h*_cpython"}',
        'cowpy = {version = ">=1", channel = "elsewhere"}',
        'cowpy = "1.1.5"',
        f'cowpy = {{version = "*", sha256 = "{"ab" * 32}"}}',
        '[pypi-dependencies]\nattrs = ">=25,<26"\n[target.win-64.dependencies]\nwindows-only = "*"',
        '[pypi-dependencies]\nattrs = {version = "*", extras = ["dev"]}\ncowpy = "~=1.1"',
        # The platform's own overrides.
        'cowpy = "2.*"\n[target.linux-64.dependencies]\ncowpy = "1.*"',
        # A feature that no environment has.
        '[feature.test.dependencies]\npytest = "*"',
    ],
)
def test_a_lock_that_satisfies_its_manifest(tmp_path: Path, dependencies: str) -> None:
    pixi(tmp_path, f"{WORKSPACE}[dependencies]\n{dependencies}\n")


@pytest.mark.parametrize(
    ("dependencies", "reason"),
    [
        ('numpy = "*"', "numpy is not locked"),
        ('python = "3.13.*"', "python 3.12.11 is locked, and 3.13.* is asked for"),
        ('python = "3.12"', "python 3.12.11 is locked, and 3.12 is asked for"),
        ('cowpy = {version = "1.1.*", build = "py_0"}', "cowpy 1.1.5 is locked, and version=1.1.* build=py_0"),
        (f'cowpy = {{version = "*", sha256 = "{"cd" * 32}"}}', "cowpy 1.1.5 is locked"),
        ('[pypi-dependencies]\nattrs = ">=26"', "attrs 25.1.0 is locked, and >=26 is asked for"),
        ('[pypi-dependencies]\nrich = "*"', "rich is not locked"),
        ('[target.linux.dependencies]\nglibc-only = "*"', "glibc-only is not locked"),
        ('[host-dependencies]\ncmake = "*"', "cmake is not locked"),
        (
            '[feature.test.dependencies]\npytest = "*"\n[environments]\ndefault = ["test"]',
            "pytest is not locked",
        ),
        (
            'rich = "*"\nnumpy = "*"\n[pypi-dependencies]\nattrs = "<1"',
            "numpy is not locked; rich is not locked; attrs",
        ),
    ],
)
def test_a_lock_that_does_not(tmp_path: Path, dependencies: str, reason: str) -> None:
    message = refusal(tmp_path, f"{WORKSPACE}[dependencies]\n{dependencies}\n")
    assert reason in message
    assert message.startswith(f"{tmp_path}/pixi.lock does not satisfy pixi.toml (")
    assert message.endswith("run pixi lock.")


def test_an_environment_without_the_default_feature(tmp_path: Path) -> None:
    features = '[dependencies]\nnumpy = "*"\n[feature.small.dependencies]\ncowpy = "*"\n'
    environments = '[environments]\ndefault = {features = ["small"], no-default-feature = true}\n'
    pixi(tmp_path, WORKSPACE + features + environments)


def test_a_platform_that_the_manifest_has_not(tmp_path: Path) -> None:
    mac = WORKSPACE.replace("linux-64", "osx-arm64")
    assert "is for osx-arm64, and debian-12-x86_64 is linux-64" in refusal(tmp_path, mac)
    assert "debian-12-aarch64 is linux-aarch64" in refusal(tmp_path, WORKSPACE, target="debian-12-aarch64")
    table = WORKSPACE.replace('"linux-64"', '{ platform = "linux-64" }')
    pixi(tmp_path, table)


def test_a_manifest_in_pyproject(tmp_path: Path) -> None:
    table = WORKSPACE.replace("[workspace]", "[tool.pixi.workspace]")
    project = '[project]\nname = "demo"\ndependencies = ["attrs>=25", "tomli; python_version < \'3.11\'"]\n'
    pixi(tmp_path, project + table, name="pyproject.toml")
    newer = project.replace(">=25", ">=26")
    assert "does not satisfy pyproject.toml (attrs 25.1.0" in refusal(tmp_path, newer + table, name="pyproject.toml")


def test_a_manifest_that_cannot_be_read(tmp_path: Path) -> None:
    assert "pixi.toml cannot be read" in refusal(tmp_path, "[workspace")
    assert "asks for 'cowpy 1..2'" in refusal(tmp_path, f'{WORKSPACE}[dependencies]\ncowpy = "1..2"\n')
    assert "asks for attrs 'new'" in refusal(tmp_path, f'{WORKSPACE}[pypi-dependencies]\nattrs = "new"\n')


def test_without_a_manifest_there_is_nothing_to_satisfy(tmp_path: Path) -> None:
    check_pixi_lock(write_lock(tmp_path, conda(PYTHON)), DEBIAN_12)
    (tmp_path / "requirements.txt").write_text(lock_line("attrs", "1", b""))
    check_requirements(tmp_path / "requirements.txt", DEBIAN_12)


def requirements(directory: Path, text: str, target: str = "debian-12") -> None:
    locked = lock_line("typing-extensions", "4.15.0", b"") + lock_line("rich", "14.0", b"")
    (directory / "requirements.txt").write_text(locked)
    (directory / "requirements.in").write_text(text)
    check_requirements(directory / "requirements.txt", parse_target(target))


@pytest.mark.parametrize(
    "text",
    [
        "# a comment\nrich  # another\n",
        "Typing_Extensions>=4,<5\n",
        "rich[jupyter]==14.*\n",
        "rich \\\n  >= 13\n",
        "--index-url https://index.invalid/simple\n-e .\nrich\n",
        "exceptiongroup; python_version < '3.11'\n",
        "-r more.in\n",
        "-c constraints.txt\nrich\n",
    ],
)
def test_requirements_that_are_satisfied(tmp_path: Path, text: str) -> None:
    (tmp_path / "more.in").write_text("rich\n-r requirements.in\n")
    (tmp_path / "constraints.txt").write_text("numpy<2\nrich<15\n")
    requirements(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cowpy\n", "cowpy is not locked"),
        ("rich>=15\n", "rich 14.0 is locked, and >=15 is asked for"),
        ("-r more.in\n", "cowpy is not locked"),
        ("--requirement=more.in\n", "cowpy is not locked"),
        ("-c constraints.txt\n", "rich 14.0 is locked, and <14 is asked for"),
        ("cowpy; sys_platform == 'linux'\n", "cowpy is not locked"),
    ],
)
def test_requirements_that_are_not(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "more.in").write_text("cowpy\n")
    (tmp_path / "constraints.txt").write_text("numpy<2\nrich<14\n")
    with pytest.raises(LockError, match=reason) as caught:
        requirements(tmp_path, text)
    assert "requirements.txt does not satisfy requirements.in" in str(caught.value)


def test_what_is_asked_for_depends_on_the_target(tmp_path: Path) -> None:
    text = "exceptiongroup; python_version < '3.11'\n"
    requirements(tmp_path, text)
    with pytest.raises(LockError, match="exceptiongroup is not locked"):
        requirements(tmp_path, text, "ubuntu-22.04")


@pytest.mark.parametrize("text", ["not a requirement !\n", "-r missing.in\n"])
def test_requirements_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    with pytest.raises(LockError, match=r"which is no requirement|missing\.in cannot be read"):
        requirements(tmp_path, text)
