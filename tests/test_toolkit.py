from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from wheels import make_wheel

from airgap import toolkit as module
from airgap.environment import Environment, PackageFile
from airgap.errors import VerificationError
from airgap.hashing import sha256_of_bytes
from airgap.toolkit import main, toolkit_digest, unpack_toolkit


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    directory = tmp_path / "airgap"
    (directory / "sources").mkdir(parents=True)
    (directory / "__init__.py").write_text("")
    (directory / "sources/__init__.py").write_text("")
    return directory


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    contents = {
        "rattler": make_wheel("rattler", "1.0"),
        "uv": make_wheel("uv", "1.0", files={"uv/__init__.py": "", "uv-1.0.data/scripts/uv": "#!/bin/sh\necho uv\n"}),
    }
    wheels = []
    for name, content in contents.items():
        path = tmp_path / f"mirror/pypi/{name}-1.0-py3-none-any.whl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        wheels.append(PackageFile(f"pypi/{path.name}", sha256_of_bytes(content), len(content), name, "1.0"))
    return Environment("toolkit", "debian-12-x86_64", "system", "3.11", "linux-64", (), tuple(wheels))


def test_unpacks_the_wheels_with_runnable_programs(tmp_path: Path, environment: Environment, package: Path) -> None:
    directory, changed = unpack_toolkit(environment, tmp_path / "mirror", tmp_path / "toolkit", package)
    assert changed
    assert (tmp_path / "toolkit/current").resolve() == directory
    assert subprocess.run([directory / "bin/uv"], capture_output=True, text=True, check=True).stdout == "uv\n"
    for path in ("rattler.py", "airgap/__init__.py", "airgap/sources/__init__.py"):
        assert (directory / path).stat().st_mode & 0o777 == 0o644
    assert directory.stat().st_mode & 0o777 == 0o755
    assert unpack_toolkit(environment, tmp_path / "mirror", tmp_path / "toolkit", package) == (directory, False)


def test_what_has_its_name_is_on_the_disk(
    tmp_path: Path, environment: Environment, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = []

    def flush(directory: Path) -> None:
        assert (directory / "bin/uv").is_file()
        flushed.append(directory)
        assert sorted(path.name for path in (tmp_path / "toolkit").iterdir()) == [".lock", directory.name]

    monkeypatch.setattr(module, "flush", flush)
    for _ in range(2):
        unpack_toolkit(environment, tmp_path / "mirror", tmp_path / "toolkit", package)
    assert [path.name[:5] for path in flushed] == [".new-"]


def test_another_package_is_another_toolkit(tmp_path: Path, environment: Environment, package: Path) -> None:
    first, _ = unpack_toolkit(environment, tmp_path / "mirror", tmp_path / "toolkit", package)
    (package / "__init__.py").write_text("# newer")
    second, changed = unpack_toolkit(environment, tmp_path / "mirror", tmp_path / "toolkit", package)
    assert changed
    assert second != first
    assert (tmp_path / "toolkit/current").resolve() == second


def test_the_digest_is_that_of_an_unpacked_toolkit_too(tmp_path: Path, environment: Environment, package: Path) -> None:
    directory, _ = unpack_toolkit(environment, tmp_path / "mirror", tmp_path / "toolkit", package)
    assert toolkit_digest(environment, directory / "airgap") == toolkit_digest(environment, package)


def test_refuses_a_damaged_wheel_and_leaves_nothing(tmp_path: Path, environment: Environment, package: Path) -> None:
    (tmp_path / "mirror" / environment.wheels[0].path).write_bytes(b"x")
    with pytest.raises(VerificationError, match=f"{environment.wheels[0].path} is damaged"):
        unpack_toolkit(environment, tmp_path / "mirror", tmp_path / "toolkit", package)
    assert [path.name for path in (tmp_path / "toolkit").iterdir()] == [".lock"]


def test_removes_what_an_interrupted_run_left(tmp_path: Path, environment: Environment, package: Path) -> None:
    (tmp_path / "toolkit/.new-abc/rattler").mkdir(parents=True)
    unpack_toolkit(environment, tmp_path / "mirror", tmp_path / "toolkit", package)
    assert not (tmp_path / "toolkit/.new-abc").exists()


def test_command_line_foresees_what_it_does(
    tmp_path: Path, environment: Environment, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toolkit.json").write_text(environment.to_json())
    arguments = [
        f"--description={tmp_path}/toolkit.json", f"--mirror={tmp_path}/mirror", f"--root={tmp_path}/toolkit",
        f"--package={package}",
    ]  # fmt: skip
    outcomes = []
    for extra in (["--check"], [], ["--check"], []):
        assert main([*arguments, *extra]) == 0
        outcomes.append(json.loads(capsys.readouterr().out))
    assert [outcome["changed"] for outcome in outcomes] == [True, True, False, False]
    assert len({outcome["path"] for outcome in outcomes}) == 1
