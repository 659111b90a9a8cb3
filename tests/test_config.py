"""bundle.toml: what it may say, that every key is an option, and that neither takes a secret."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from airgap import cli_build
from airgap.config import RUN_OPTIONS, attribute, check, keys, pixi_mirrors, read_config, settings
from airgap.errors import UsageError

EXAMPLE = "bundle.toml.example"


def parse(*arguments: str) -> argparse.Namespace:
    return cli_build.parser("build-bundle.py").parse_args(arguments)


def written(directory: Path, text: str) -> Path:
    path = directory / "bundle.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_key_is_an_option_and_every_option_a_key() -> None:
    assert {attribute(key) for key in keys()} == set(vars(parse())) - RUN_OPTIONS


def test_the_example_has_every_key_and_is_correct_once_it_is_uncommented(repository: Path, tmp_path: Path) -> None:
    text = (repository / EXAMPLE).read_text(encoding="utf-8")
    uncommented = re.sub(r"^#(?=[\w\[\"])", "", text, flags=re.MULTILINE)
    assert set(read_config(written(tmp_path, uncommented))) == set(keys())


def test_every_key_is_documented(repository: Path) -> None:
    text = (repository / "docs" / "building.md").read_text(encoding="utf-8")
    assert [key for key in keys() if f"| `{key}` |" not in text] == []


def test_the_file_beside_the_program_counts_and_options_go_before_it(tmp_path: Path) -> None:
    written(
        tmp_path,
        'targets = ["debian-12", "debian-13"]\npython = "conda"\nversion = "1"\n'
        '[mirrors]\nforge = ["https://m.invalid/forge"]\n[apt-mirrors]\n"*" = ["https://a.invalid"]\n',
    )
    given = settings(
        parse("--target", "ubuntu-24.04", "--channel", "a=file:///a", "--channel", "a=file:///b"), tmp_path
    )
    assert given == {
        "targets": ["ubuntu-24.04"],
        "python": "conda",
        "version": "1",
        "mirrors": {"a": ["file:///a", "file:///b"]},
        "apt-mirrors": {"*": ["https://a.invalid"]},
    }


def test_no_file_is_no_fault_unless_it_was_named(tmp_path: Path) -> None:
    assert settings(parse(), tmp_path) == {}
    with pytest.raises(UsageError, match=r"none\.toml cannot be read .*--config"):
        settings(parse("--config", str(tmp_path / "none.toml")), tmp_path)


def test_paths_start_at_the_file_and_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").mkdir()
    path = written(
        tmp_path / "config",
        'flows = ["a", "/b"]\nextra-wheels = ["w.txt"]\nca-file = "ca.pem"\ncache = "~/c"\n'
        '[[extra-conda]]\nlock = "x/pixi.lock"\n',
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    given = settings(parse("--config", "config/bundle.toml", "--sign-key", "key"), tmp_path / "elsewhere")
    here = str(path.parent)
    assert (given["flows"], given["extra-wheels"]) == ([f"{here}/a", "/b"], [f"{here}/w.txt"])
    assert (given["ca-file"], given["cache"], given["sign-key"]) == (
        f"{here}/ca.pem",
        "/home/someone/c",
        f"{tmp_path}/key",
    )
    assert given["extra-conda"] == [{"lock": f"{here}/x/pixi.lock"}]


def test_tables_as_options(tmp_path: Path) -> None:
    given = settings(
        parse(
            "--apt-repository", "uri=https://r.invalid/apt suite=stable components=main,x signed-by=/k packages=a,b",
            "--extra-conda", "url=https://c.invalid/forge/noarch/a-1-0.conda sha256=" + "0" * 64,
            "--extra-conda", "lock=/x/pixi.lock environment=tools",
        ),
        tmp_path,
    )  # fmt: skip
    assert given["apt-repositories"] == [
        {
            "uri": "https://r.invalid/apt",
            "suite": "stable",
            "components": ["main", "x"],
            "signed-by": "/k",
            "packages": ["a", "b"],
        }
    ]
    assert given["extra-conda"][1] == {"lock": "/x/pixi.lock", "environment": "tools"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('target = ["debian-12"]', "there is no key target: write targets."),
        ("colour = 1", "there is no key colour: the keys are targets, python, "),
        ('targets = "debian-12"', 'targets is "debian-12": it has to be a list of releases'),
        ("targets = [12]", "targets[0] is 12: it has to be "),
        ("targets = []", "targets is empty: put something into it"),
        ('python = "3.11"', 'python is "3.11": it has to be one of "auto", "conda", "system".'),
        ('split-size = "4 apples"', 'split-size is "4 apples": it has to be a size as a text, such as "4G"'),
        ('indexes = ["mirror/simple"]', 'indexes[0] is "mirror/simple": it has to be an address that begins with'),
        ('[mirrors]\nforge = ["oci://x/y"]', 'mirrors.forge[0] is "oci://x/y": it has to be an address'),
        ('[[apt-repositories]]\nuri = "https://r"\nsuite = "s"', "apt-repositories[0] has no signed-by: add it."),
        (
            '[[apt-repositories]]\nuri = "https://r"\nsuite = "s"\nsigned-by = "k"\nsuites = "t"',
            "there is no key suites in apt-repositories[0]: write suite.",
        ),
        ('[[extra-conda]]\nurl = "https://c/noarch/a-1-0.conda"', "it has to be a table with lock"),
        ('extra-debs = ["--purge"]', 'extra-debs[0] is "--purge": it has to be the name of a Debian package.'),
        ("targets = [", "is no TOML"),
    ],
)
def test_a_fault_is_one_sentence_with_file_key_and_what_to_do(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as raised:
        read_config(path)
    assert str(raised.value).startswith(str(path))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "store"),
    [
        ('indexes = ["https://me:s3cr3t@i.invalid/simple"]', "netrc or pip's configuration"),
        ('indexes = ["https://i.invalid/simple?token=s3cr3t"]', "netrc or pip's configuration"),
        ('proxy = "http://me:s3cr3t@p.invalid:3128"', "https_proxy"),
        ('[mirrors]\nforge = ["https://m.invalid/t/s3cr3t/forge"]', "pixi auth login"),
        ('[mirrors]\n"https://m.invalid/t/s3cr3t/forge" = ["https://m.invalid/forge"]', "pixi auth login"),
        ('[apt-mirrors]\n"*" = ["https://me:s3cr3t@a.invalid/debian"]', "apt's auth.conf"),
        ('[[apt-repositories]]\nuri = "https://me:s3cr3t@r"\nsuite = "s"\nsigned-by = "k"', "apt's auth.conf"),
    ],
)
def test_credentials_are_refused_with_the_place_for_them_and_without_themselves(
    tmp_path: Path, text: str, store: str
) -> None:
    with pytest.raises(UsageError) as raised:
        read_config(written(tmp_path, text))
    assert store in str(raised.value)
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--index", "https://me:s3cr3t@i.invalid"),
        ("--proxy", "http://me:s3cr3t@p.invalid"),
        ("--channel", "forge=https://m.invalid/t/s3cr3t/forge"),
        ("--apt-mirror", "https://me:s3cr3t@a.invalid"),
    ],
)
def test_credentials_are_refused_in_options_too(tmp_path: Path, arguments: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match=r"the command line: .* holds credentials") as raised:
        settings(parse(*arguments), tmp_path)
    assert "s3cr3t" not in str(raised.value)


def test_a_fault_of_another_kind_does_not_show_credentials_either() -> None:
    with pytest.raises(UsageError) as raised:
        check({"indexes": "https://me:s3cr3t@i.invalid"}, "bundle.toml")
    assert "s3cr3t" not in str(raised.value)


def test_pixis_own_mirrors_are_read_the_nearer_file_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, checkout = tmp_path / "home", tmp_path / "checkout"
    for directory in (home / "pixi", checkout / ".pixi"):
        directory.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    monkeypatch.setenv("PIXI_HOME", str(tmp_path / "none"))
    (home / "pixi" / "config.toml").write_text(
        '[mirrors]\n"https://a.invalid" = ["oci://x", "https://user.invalid"]\n"https://b.invalid" = ["https://b2.invalid"]\n'
    )
    (checkout / ".pixi" / "config.toml").write_text('[mirrors]\n"https://a.invalid" = ["https://project.invalid"]\n')
    assert pixi_mirrors(checkout) == {
        "https://a.invalid": ["https://project.invalid"],
        "https://b.invalid": ["https://b2.invalid"],
    }
    (checkout / ".pixi" / "config.toml").write_text("[mirrors")
    with pytest.raises(UsageError, match=r"\.pixi/config\.toml is no TOML"):
        pixi_mirrors(checkout)
