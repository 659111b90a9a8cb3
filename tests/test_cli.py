from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from bundles import make_archive

from airgap import cli, cli_build
from airgap.errors import AirgapError
from airgap.plan import BuildOptions


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[BuildOptions]:
    """Catch the options that a build would be started with."""
    caught: list[BuildOptions] = []

    def build(options: argparse.Namespace) -> int:
        caught.append(cli_build.build_options(options))
        return 0

    monkeypatch.setattr(cli_build, "run", build)
    return caught


def test_options(given: list[BuildOptions], tmp_path: Path) -> None:
    arguments = [
        "--python", "conda", "--target", "debian-13", "--target", "ubuntu-22.04-aarch64", "--target", "debian-13",
        "--flow", str(tmp_path), "--channel", "conda-forge=file:///srv/forge", "--channel", "https://a/b=https://c/d?e=f",
        "--apt-mirror", "https://all.invalid/d?a=b", "--apt-mirror", "debian-13=https://d.invalid",
        "--output", str(tmp_path / "x.tar.gz"), "--cache", str(tmp_path), "--version", "9", "--dry-run",
    ]  # fmt: skip
    assert cli.main(arguments) == 0
    (options,) = given
    assert [target.name for target in options.targets] == ["debian-13-x86_64", "ubuntu-22.04-aarch64"]
    assert options.flows == (tmp_path,)
    assert options.channels == {"conda-forge": "file:///srv/forge", "https://a/b": "https://c/d?e=f"}
    assert options.apt_mirrors == {"": "https://all.invalid/d?a=b", "debian-13": "https://d.invalid"}
    assert (options.python, options.version, options.dry_run) == ("conda", "9", True)


def test_the_version_comes_from_the_environment(given: list[BuildOptions], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUNDLE_VERSION", "2.0-rc1")
    assert cli.main(["--target", "debian-12"]) == 0
    assert given[0].version == "2.0-rc1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "windows-11"], "'windows-11' is not known"),
        (["--channel", "conda-forge"], "--channel wants NAME=URL"),
        (["--channel", "conda-forge=/srv/forge"], "--channel wants NAME=URL"),
        (["--apt-mirror", "debian-99=https://d.invalid"], "--apt-mirror wants"),
        (["--output", "/tmp"], "/tmp is a directory"),
        (["verify", "/nowhere/at/all"], "/nowhere/at/all does not exist"),
    ],
)
def test_mistakes_give_one_line_and_status_1(
    given: list[BuildOptions], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "status", "text"),
    [(AirgapError("It broke."), 1, "error: It broke."), (KeyboardInterrupt(), 130, "start again to go on")],
)
def test_errors_are_caught_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: BaseException, status: int, text: str
) -> None:
    def fail(_options: object) -> int:
        raise raised

    monkeypatch.setattr(cli_build, "run", fail)
    assert cli.main([]) == status
    assert text in capsys.readouterr().err


def test_verify_and_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = make_archive(tmp_path / "a.tar.gz")
    assert cli.main(["verify", str(archive)]) == 0
    assert "targets  debian-12-x86_64" in capsys.readouterr().out
    assert cli.main(["verify", "--quiet", str(archive)]) == 0
    assert capsys.readouterr().out == ""
    assert cli.main(["inspect", str(archive)]) == 0
    assert "software" in capsys.readouterr().out
    archive.write_bytes(archive.read_bytes()[:-5000])
    for command in ("verify", "inspect"):
        assert cli.main([command, str(archive)]) == 1
        assert "truncated or damaged" in capsys.readouterr().err


def test_a_pack_is_for_one_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pack-flow", str(tmp_path), "--target", "debian-12", "--target", "debian-13"]) == 1
    assert "one target" in capsys.readouterr().err
