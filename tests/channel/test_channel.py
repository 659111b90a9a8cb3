"""The whole way of a conda environment, with the channel that is made here: lock, mirror, install, use."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from airgap.environment import Environment
from airgap.install import Installation, install
from airgap.pack import import_pack, read_pack, write_pack
from airgap.targets import parse_target
from channel.build import build_channel
from channel.mirrors import bring_environment, lock_environment

# apt's and the index's packages are fetched, and there has to be a compiler.
pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="there is no apt-get"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),
]
TARGET = parse_target("debian-12")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("channel")


@pytest.fixture(scope="module")
def channel(work: Path) -> Path:
    return build_channel(work / "channel", work / "work", prefect=False)


def bring(work: Path, name: str, channel: Path, **dependencies: str) -> Environment:
    lock = lock_environment(work / name, channel, {"python": "3.11.*"} | dependencies)
    environment = bring_environment(name, lock, TARGET, work / "mirror")
    (work / f"{name}.json").write_text(environment.to_json())
    return environment


def put_in(work: Path, name: str) -> Installation:
    return install(work / f"{name}.json", work / "mirror", work / "envs", work / "cache")


@pytest.fixture(scope="module")
def installed(work: Path, channel: Path) -> Path:
    bring(work, "all", channel, **{"greet": "*", "greet-py": "*", "greet-activate": "*"})
    return Path(put_in(work, "all").path)


def run(directory: Path, *command: str) -> str:
    environment = {"PATH": "/usr/bin:/bin"}
    command = (str(directory / "run"), *command)
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def test_python_is_the_channels_own(installed: Path) -> None:
    code = "import sys, ssl, sqlite3, sysconfig; print(sys.base_prefix, sysconfig.get_path('purelib'))"
    base, library = run(installed, "python", "-c", code).split()
    assert base == f"{installed}/env"
    assert library == f"{installed}/env/lib/python3.11/site-packages"


def test_prefixes_are_replaced_in_binaries_and_texts(installed: Path) -> None:
    assert run(installed, "greet") == f"Hello from {installed}/env\n"
    assert f"prefix={installed}/env\n" in (installed / "env/lib/pkgconfig/greet.pc").read_text()


def test_entry_points_of_noarch_packages_run(installed: Path) -> None:
    assert run(installed, "greet-py") == f"Hello from {installed}/env\n"


def test_activation_scripts_and_variables_take_effect(installed: Path) -> None:
    output = run(installed, "sh", "-c", 'echo "$GREET_HOME|$GREET_TONE"')
    assert output == f"{installed}/env/share/greet|it's $warm\n"


def test_both_formats_of_packages_were_there(installed: Path, channel: Path) -> None:
    suffixes = {path.suffix for path in channel.rglob("greet*")}
    assert suffixes == {".conda", ".bz2"}


def test_modes_of_the_build_machine_do_not_matter(installed: Path) -> None:
    for path in installed.rglob("*"):
        assert path.is_symlink() or path.stat().st_mode & 0o044 == 0o044, path


def test_a_second_environment_shares_the_files(work: Path, channel: Path, installed: Path) -> None:
    bring(work, "second", channel, **{"greet-py": "*"})
    second = Path(put_in(work, "second").path)
    for name in ("bin/python3.11", "lib/python3.11/ssl.py", "lib/python3.11/site-packages/greet_py.py"):
        assert (second / "env" / name).stat().st_ino == (installed / "env" / name).stat().st_ino


def test_what_was_written_into_an_environment_does_not_spread(work: Path, channel: Path, installed: Path) -> None:
    path = installed / "env/lib/python3.11/site-packages/greet_py.py"
    content = path.read_bytes()
    path.write_bytes(b"raise SystemExit('changed')\n")
    try:
        bring(work, "third", channel, **{"greet-py": "*", "greet": "*"})
        third = Path(put_in(work, "third").path)
        assert run(third, "greet-py") == f"Hello from {third}/env\n"
    finally:
        path.write_bytes(content)


def test_a_pack_of_it_is_brought_in_and_installed(work: Path, channel: Path) -> None:
    environment = bring(work, "packed", channel, **{"greet": "*", "greet-py": "*"})
    pack = work / "packed/packed-env.tar"
    # What a pack must have and this small channel has not.
    prefect = next(package for package in environment.conda if package.name == "greet-py")
    record = {**(prefect.record or {}), "name": "prefect"}
    renamed = replace(prefect, name="prefect", record=record)
    conda = tuple(renamed if package is prefect else package for package in environment.conda)
    write_pack(replace(environment, conda=conda), lambda path: work / "mirror" / path, pack)
    assert len(read_pack(pack).conda) == len(environment.conda)
    imported = import_pack(pack, pack.parent, work / "mirror2", work / "environments", "demo", TARGET)
    assert imported.environment.interpreter == "conda"
    for package in imported.environment.conda:
        assert (work / "mirror2" / package.path).is_file()
