from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
from bundles import make_archive
from small_world import WHEELS, small_world

from airgap import cli, cli_build
from airgap.delta import read_base
from airgap.errors import AirgapError
from airgap.hashing import sha256_of_bytes
from airgap.have import Have, HavePackage
from airgap.network import NetworkOptions
from airgap.plan import BuildOptions
from airgap.sources.apt_archives import AptRepository
from airgap.sources.conda_extra import CondaExtra


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
    assert options.channels == {"conda-forge": ["file:///srv/forge"], "https://a/b": ["https://c/d?e=f"]}
    assert options.apt_mirrors == {"*": ["https://all.invalid/d?a=b"], "debian-13": ["https://d.invalid"]}
    assert (options.python, options.version, options.dry_run) == ("conda", "9", True)


def test_bundle_toml_becomes_the_builds_options(given: list[BuildOptions], tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text(
        """
        targets = ["debian-13"]
        version = "7"
        split-size = "700M"
        indexes = ["https://i.invalid/simple"]
        proxy = "http://p.invalid:3128"
        no-proxy = ["near.invalid"]
        ca-file = "ca.pem"
        extra-debs = ["htop"]
        extra-wheels = ["tools.txt"]
        [mirrors]
        forge = ["https://one.invalid", "https://two.invalid"]
        [[apt-repositories]]
        uri = "https://r.invalid"
        suite = "stable"
        signed-by = "r.gpg"
        packages = ["agent"]
        [[extra-conda]]
        lock = "pixi.lock"
        """,
        encoding="utf-8",
    )
    assert cli.main(["--config", str(tmp_path / "b.toml"), "--extra-deb", "tmux"]) == 0
    (options,) = given
    assert [target.release.name for target in options.targets] == ["debian-13"]
    assert (options.version, options.split_size, options.extra_debs) == ("7", 700 * 1024**2, ("tmux",))
    assert options.network == NetworkOptions(
        ("https://i.invalid/simple",), "http://p.invalid:3128", ("near.invalid",), tmp_path / "ca.pem"
    )
    assert options.channels["forge"] == ["https://one.invalid", "https://two.invalid"]
    assert options.apt_repositories == (
        AptRepository("https://r.invalid", "stable", tmp_path / "r.gpg", packages=("agent",)),
    )
    assert options.extra_wheels == (tmp_path / "tools.txt",)
    assert options.extra_conda == (CondaExtra(tmp_path / "pixi.lock"),)


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
        (["--apt-mirror", "debian-99=https://d.invalid"], "no release debian-99"),
        (["--apt-mirror", "debian-12"], "--apt-mirror wants [RELEASE=]URL"),
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


HAVE = Have(
    created_by="tests",
    prefect_version=None,
    targets=("debian-13-x86_64", "ubuntu-22.04-aarch64"),
    packages=(HavePackage("mirror/pypi/cowpy-1.0-py3-none-any.whl", sha256_of_bytes(WHEELS["cowpy", "1.0"]), 2000),),
    contents=frozenset(),
)


@pytest.fixture
def have(tmp_path: Path) -> Path:
    path = tmp_path / "have.json"
    path.write_text(HAVE.to_json(), encoding="utf-8")
    return path


def test_a_delta_is_for_the_sites_targets_unless_others_are_named(given: list[BuildOptions], have: Path) -> None:
    assert cli.main(["--since", str(have), "--system-updates"]) == 0
    assert cli.main(["--since", str(have), "--target", "debian-12"]) == 0
    assert cli.main(["--target", "debian-12"]) == 0
    first, second, third = given
    assert [target.name for target in first.targets] == ["debian-13-x86_64", "ubuntu-22.04-aarch64"]
    assert first.base is not None
    assert (first.base.have, first.base.digest) == (HAVE, sha256_of_bytes(have.read_bytes()))
    assert (first.system_updates, second.system_updates) == (True, False)
    assert [target.name for target in second.targets] == ["debian-12-x86_64"]
    assert second.base == first.base
    assert third.base is None


def test_signers_of_nothing_are_a_mistake(given: list[BuildOptions], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--have-signers", "signers"]) == 1
    assert capsys.readouterr().err == "error: --have-signers checks the file that --since names: give both.\n"


def test_a_dry_run_of_a_delta_prints_what_would_travel_by_kind(
    tmp_path: Path, have: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_world(tmp_path) as world:
        base = read_base(have)
        result = world.build(base=base, dry_run=True)
        monkeypatch.setattr("airgap.build.build", lambda *_arguments, choice: result)
        monkeypatch.setattr(
            cli_build, "build_options", lambda _options: replace(world.options, base=base, dry_run=True)
        )
        assert cli.main(["--since", str(have), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert f"Relies on 1 files that the site has, 2.0 kB (base {base.digest}).\n" in printed
    rows = {line.split()[0]: line.split()[1] for line in printed.splitlines() if line.startswith(" ")}
    assert rows == {
        "kind": "files", "conda": "1", "wheel": "3", "deb": "1", "index": "9", "environment": "4", "ansible": "1",
        "flow": "2", "software": "2", "document": "2",
    }  # fmt: skip
    assert "The Ansible collections are not counted: their wheel was not fetched yet." in printed
    assert "Dry run: 25 files would travel" in printed


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
