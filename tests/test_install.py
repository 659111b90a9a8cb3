from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from installables import Node, this_hosts_target

from airgap import install as module
from airgap.environment import Environment
from airgap.errors import InstallationError, VerificationError
from airgap.install import MARKER, Installation, install, main

TARGET = this_hosts_target()
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(TARGET is None, reason="the host is no target, or lacks its own python3"),
]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    assert TARGET is not None
    return Node(tmp_path, TARGET)


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """Keep the umask as it was: install sets its own."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def bring(node: Node, description: Path, *, link: bool = True, check: bool = False) -> Installation:
    return install(description, node.mirror, node.root, node.cache, link=node.link if link else None, check=check)


def run(*command: str | Path, **variables: str) -> str:
    environment = {"PATH": "/usr/bin:/bin", **variables}
    return subprocess.run(
        [str(word) for word in command], env=environment, check=True, capture_output=True, text=True
    ).stdout


def entries(node: Node) -> list[str]:
    return sorted(path.name for path in node.root.iterdir() if path.name != ".lock") if node.root.exists() else []


def test_installs_wheels_on_the_nodes_own_python(node: Node) -> None:
    installation = bring(node, node.describe("base", alpha="1.0", beta="2.0"))
    assert (installation.changed, installation.installed, installation.linked) == (True, True, True)
    assert run(Path(installation.path) / "env/bin/run-alpha") == "alpha 1.0\n"
    prefix = run(installation.python, "-c", "import sys; print(sys.prefix)").strip()
    assert prefix == f"{installation.path}/env"
    assert node.link.readlink() == Path(installation.path)


def test_second_time_changes_nothing(node: Node) -> None:
    description = node.describe("base", alpha="1.0")
    bring(node, description)
    before = {path: path.lstat().st_ctime_ns for path in node.directory.rglob("*")}
    again = bring(node, description)
    assert not again.changed
    assert {path: path.lstat().st_ctime_ns for path in node.directory.rglob("*")} == before


def test_switches_the_link_to_a_new_environment_and_keeps_the_old_one(node: Node) -> None:
    old = bring(node, node.describe("base", alpha="1.0"))
    new = bring(node, node.describe("base", alpha="1.1"))
    assert node.link.readlink() == Path(new.path) != Path(old.path)
    assert run(Path(old.path) / "env/bin/run-alpha") == "alpha 1.0\n"
    back = bring(node, node.describe("base", alpha="1.0"))
    assert (back.installed, back.linked) == (False, True)


def test_what_is_marked_complete_is_on_the_disk(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []

    def flush(directory: Path) -> None:
        assert (directory / "run").is_file()
        assert not (directory / MARKER).exists()
        flushed.append(directory)

    monkeypatch.setattr(module, "flush", flush)
    description = node.describe("base", alpha="1.0")
    for _ in range(2):
        installation = bring(node, description)
    assert flushed == [Path(installation.path)]


def test_environments_share_their_files(node: Node) -> None:
    first = bring(node, node.describe("base", alpha="1.0", beta="1.0"))
    second = bring(node, node.describe("flow", alpha="1.0"))
    files = [next(Path(path.path).glob("env/lib/python*/site-packages/alpha.py")) for path in (first, second)]
    assert files[0].stat().st_ino == files[1].stat().st_ino


@pytest.mark.parametrize("change", [b"raise SystemExit('changed')\n", None])
def test_what_was_written_into_an_environment_does_not_spread(node: Node, change: bytes | None) -> None:
    first = bring(node, node.describe("base", alpha="1.0"))
    module_file = next(Path(first.path).glob("env/lib/python*/site-packages/alpha.py"))
    # The same length too, as after one flipped bit.
    module_file.write_bytes(change or module_file.read_bytes().replace(b"VERSION", b"VERSIOM"))
    second = bring(node, node.describe("flow", alpha="1.0", beta="1.0"))
    assert run(Path(second.path) / "env/bin/run-alpha") == "alpha 1.0\n"


def test_python_code_is_compiled_once_for_all_environments(node: Node) -> None:
    first = bring(node, node.describe("base", alpha="1.0"))
    second = bring(node, node.describe("flow", alpha="1.0", beta="1.0"))
    compiled = [
        next(Path(path.path).glob("env/lib/python*/site-packages/__pycache__/alpha.*")) for path in (first, second)
    ]
    assert compiled[0].stat().st_ino == compiled[1].stat().st_ino
    verbose = subprocess.run([second.python, "-v", "-c", "import alpha"], capture_output=True, text=True, check=True)
    assert f"code object from '{compiled[1]}'" in verbose.stderr
    assert list(Path(second.path).glob("env/lib/python*/site-packages/__pycache__/beta.*"))


def test_code_that_does_not_compile_is_no_trouble(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    description = node.describe("base", alpha="1.0")
    real = module.link_compiled

    def with_broken(prefix: Path, store: Path, tag: str) -> list[Path]:
        (next(prefix.glob("lib/python*/site-packages")) / "broken.py").write_text("this is ( no code")
        return real(prefix, store, tag)

    monkeypatch.setattr(module, "link_compiled", with_broken)
    assert bring(node, description).installed
    monkeypatch.setattr(module, "link_compiled", real)
    second = install(node.describe("flow", alpha="1.0"), node.mirror, node.root, node.cache, bytecode=False)
    assert not list(Path(second.path).glob("env/lib/**/__pycache__"))


def test_everybody_can_read_and_only_the_owner_write(node: Node) -> None:
    installation = bring(node, node.describe("base", alpha="1.0"))
    for path in (Path(installation.path), *Path(installation.path).rglob("*")):
        if path.is_symlink():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o444 == 0o444, path
        assert not mode & 0o022, path
        if path.is_dir():
            assert mode & 0o111 == 0o111, path


def test_check_mode_says_what_would_be_done_and_does_nothing(node: Node) -> None:
    description = node.describe("base", alpha="1.0")
    before = sorted(node.directory.rglob("*"))
    foreseen = bring(node, description, check=True)
    assert (foreseen.installed, foreseen.linked) == (True, True)
    assert sorted(node.directory.rglob("*")) == before
    assert bring(node, description).path == foreseen.path
    assert not bring(node, description, check=True).changed


def test_refuses_a_damaged_file_and_names_it(node: Node) -> None:
    old = bring(node, node.describe("base", alpha="1.0"))
    description = node.describe("base", alpha="1.1")
    wheel = node.mirror / "pypi/alpha-1.1-py3-none-any.whl"
    content = bytearray(wheel.read_bytes())
    content[100] ^= 1
    wheel.write_bytes(content)
    with pytest.raises(VerificationError, match=r"pypi/alpha-1\.1-py3-none-any\.whl is damaged"):
        bring(node, description)
    assert entries(node) == [Path(old.path).name]
    assert node.link.readlink() == Path(old.path)


def test_refuses_a_missing_file_and_names_it(node: Node) -> None:
    description = node.describe("base", alpha="1.0", beta="1.0")
    (node.mirror / "pypi/beta-1.0-py3-none-any.whl").unlink()
    with pytest.raises(VerificationError, match=r"pypi/beta-1\.0-py3-none-any\.whl is missing"):
        bring(node, description)
    assert entries(node) == []


def test_refuses_a_description_that_leads_out_of_the_mirror(node: Node) -> None:
    description = node.describe("base", alpha="1.0")
    (node.directory / "outside.whl").write_bytes((node.mirror / "pypi/alpha-1.0-py3-none-any.whl").read_bytes())
    environment = Environment.from_file(description)
    text = description.read_text().replace("pypi/alpha-1.0-py3-none-any.whl", "../outside.whl")
    document = json.loads(text)
    moved = Environment.from_json(json.dumps(document | {"digest": _digest(environment)}), "moved")
    description.write_text(moved.to_json())
    with pytest.raises(VerificationError, match="leads out of the mirror"):
        bring(node, description)


def _digest(environment: Environment) -> str:
    from dataclasses import replace

    wheels = tuple(replace(wheel, path="../outside.whl") for wheel in environment.wheels)
    return replace(environment, wheels=wheels).digest


def test_repairs_what_an_interrupted_run_left(node: Node) -> None:
    description = node.describe("base", alpha="1.0")
    directory = Path(bring(node, description).path)
    (directory / MARKER).unlink()
    (directory / "env/bin/run-alpha").unlink()
    (directory / "leftover").touch()
    assert bring(node, description).installed
    assert run(directory / "env/bin/run-alpha") == "alpha 1.0\n"
    assert not (directory / "leftover").exists()


def fake_uv(node: Node, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = node.directory / "uv"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(module, "find_uv", lambda: program)


def test_a_full_disk_is_one_sentence_and_leaves_the_old_environment(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = bring(node, node.describe("base", alpha="1.0"))
    description = node.describe("base", alpha="1.1")
    fake_uv(
        node,
        monkeypatch,
        'case "$*" in *install*) echo "error: No space left on device (os error 28)" >&2; exit 2;; esac',
    )
    with pytest.raises(InstallationError, match=r"no space left on the disk of .*envs .*nothing was changed") as caught:
        bring(node, description)
    assert "\n" not in str(caught.value)
    assert entries(node) == [Path(old.path).name]
    assert node.link.readlink() == Path(old.path)


def test_a_failing_installer_leaves_nothing_behind(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_uv(node, monkeypatch, "echo 'error: something\n  broke' >&2; exit 2")
    with pytest.raises(InstallationError, match=r"could not be installed .*: error: something broke$"):
        bring(node, node.describe("base", alpha="1.0"))
    assert entries(node) == []
    assert not node.link.is_symlink()


def command_line(node: Node, description: Path) -> list[str]:
    options = {
        "description": description,
        "mirror": node.mirror,
        "root": node.root,
        "cache": node.cache,
        "link": node.link,
    }
    return [sys.executable, "-m", "airgap.install", *(f"--{name}={value}" for name, value in options.items())]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_in_the_middle_the_next_run_repairs(node: Node, repository: Path, number: signal.Signals) -> None:
    description = node.describe("base", **{f"package_{index}": "1.0" for index in range(20)})
    process = subprocess.Popen(command_line(node, description), cwd=repository, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not list(node.root.glob("*/env/conda-meta")) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(number)
    assert process.wait() != 0
    assert not list(node.root.glob(f"*/{MARKER}"))
    assert not node.link.is_symlink()
    installation = bring(node, description)
    assert run(Path(installation.path) / "env/bin/run-package_19") == "package_19 1.0\n"


def test_two_at_the_same_time_do_it_once(node: Node, repository: Path) -> None:
    description = node.describe("base", alpha="1.0")
    processes = [
        subprocess.Popen(command_line(node, description), cwd=repository, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outcomes = [json.loads(process.communicate()[0]) for process in processes]
    assert sorted(outcome["installed"] for outcome in outcomes) == [False, False, True]
    assert len(entries(node)) == 1


def test_refuses_another_architecture(node: Node) -> None:
    description = node.describe("base", alpha="1.0")
    environment = Environment.from_file(description)
    other = "linux-aarch64" if environment.platform == "linux-64" else "linux-64"
    from dataclasses import replace

    description.write_text(replace(environment, platform=other).to_json())
    with pytest.raises(InstallationError, match=f"is for {other} and this machine is"):
        bring(node, description)
    assert not node.root.exists()


def test_refuses_a_python_that_the_machine_does_not_have(node: Node) -> None:
    from dataclasses import replace

    description = node.describe("base", alpha="1.0")
    description.write_text(replace(Environment.from_file(description), python="3.99").to_json())
    with pytest.raises(InstallationError, match=r"needs this machine's own Python 3\.99"):
        bring(node, description)


def test_refuses_to_replace_something_that_is_no_link(node: Node) -> None:
    node.link.mkdir()
    with pytest.raises(InstallationError, match="is not a link"):
        bring(node, node.describe("base", alpha="1.0"))
    assert node.link.is_dir()


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_activation_can_be_sourced_twice_and_bakes_nothing_in(node: Node, shell: str) -> None:
    installation = bring(node, node.describe("base", alpha="1.0"))
    hook = Path(installation.path) / "env/etc/conda/activate.d/hook.sh"
    hook.parent.mkdir(parents=True)
    hook.write_text('export HOOK="$CONDA_PREFIX/hook"\n')
    script = (
        f". {node.link}/activate.sh; . {node.link}/activate.sh; echo $PATH; echo $HOOK; command -v python; run-alpha"
    )
    path, value, python, output = run(shell, "-euc", script, PATH="/usr/bin:/bin").splitlines()
    binaries = f"{installation.path}/env/bin"
    assert path == f"{binaries}:/usr/bin:/bin"
    assert value == f"{installation.path}/env/hook"
    assert python == f"{binaries}/python"
    assert output == "alpha 1.0"


def test_run_starts_programs_activated_and_hands_on_their_status(node: Node) -> None:
    installation = bring(node, node.describe("base", alpha="1.0"))
    assert run(f"{installation.path}/run", "run-alpha") == "alpha 1.0\n"
    assert subprocess.run([f"{installation.path}/run", "sh", "-c", "exit 7"]).returncode == 7


def test_command_line_prints_one_line_or_one_sentence(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command_line(node, node.describe("base", alpha="1.0"))[3:]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["changed"], printed["linked"]) == (True, True)
    assert Path(printed["path"], MARKER).is_file()
    (node.directory / f"base.{node.target.name}.json").write_text("{}")
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
