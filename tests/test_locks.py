from __future__ import annotations

from pathlib import Path

import pytest

from airgap.errors import LockError
from airgap.locks import read_channels, read_lock

SHA = "ab" * 32
CHANNEL = "https://channels.example/conda-forge"
PYTHON = f"{CHANNEL}/linux-64/python-3.12.11-h9e4cc4f_0_cpython.conda"
COWPY = f"{CHANNEL}/noarch/cowpy-1.1.5-pyhd8ed1ab_2.conda"
MUTEX = f"{CHANNEL}/linux-64/_libgcc_mutex-0.1-conda_forge.tar.bz2"
WHEEL = "https://files.example/ab/attrs-25.1.0-py3-none-any.whl"

CONDA = f"- conda: {{url}}\n  sha256: {SHA}\n  md5: {'cd' * 16}\n  depends: []\n  license: MIT\n  size: 10\n"


def conda(url: str) -> str:
    return CONDA.format(url=url)


def pypi(url: str, *, sha256: str | None = SHA, name: str = "attrs", version: str = "25.1.0") -> str:
    return f"- pypi: {url}\n  name: {name}\n  version: {version}\n" + (f"  sha256: {sha256}\n" if sha256 else "")


def write_lock(
    directory: Path, *packages: str, version: int = 6, channel: str = CHANNEL, environment: str = "default"
) -> Path:
    references = "".join(f"      {package.splitlines()[0]}\n" for package in packages)
    path = directory / "pixi.lock"
    path.write_text(
        f"version: {version}\nenvironments:\n  {environment}:\n    channels:\n    - url: {channel}/\n"
        "    indexes:\n    - https://index.example/simple\n"
        f"    packages:\n      linux-64:\n{references}packages:\n{''.join(packages)}"
    )
    return path


def refusal(path: Path, environment: str = "default", platform: str = "linux-64") -> str:
    with pytest.raises(LockError) as caught:
        read_lock(path, environment, platform)
    return str(caught.value)


def test_reads_both_formats_of_conda_packages_and_wheels(tmp_path: Path) -> None:
    locked = read_lock(
        write_lock(tmp_path, conda(PYTHON), conda(COWPY), conda(MUTEX), pypi(WHEEL)), "default", "linux-64"
    )
    mutex, python, cowpy = sorted(locked.conda, key=lambda package: (package.subdir, package.file_name))
    assert (python.file_name, python.subdir, python.sha256) == (
        "python-3.12.11-h9e4cc4f_0_cpython.conda",
        "linux-64",
        SHA,
    )
    assert (python.record["name"], python.record["version"]) == ("python", "3.12.11")
    assert (cowpy.subdir, cowpy.record["noarch"]) == ("noarch", "python")
    assert mutex.file_name.endswith(".tar.bz2")
    (wheel,) = locked.wheels
    assert (wheel.name, wheel.version, wheel.sha256, wheel.url) == ("attrs", "25.1.0", SHA, WHEEL)


def test_reads_version_5(tmp_path: Path) -> None:
    path = tmp_path / "pixi.lock"
    path.write_text(
        f"version: 5\nenvironments:\n  default:\n    channels:\n    - url: {CHANNEL}/\n    packages:\n      linux-64:\n"
        f"      - conda: {PYTHON}\n      - pypi: {WHEEL}\npackages:\n"
        f"- kind: conda\n  name: python\n  version: 3.12.11\n  build: h9e4cc4f_0_cpython\n  subdir: linux-64\n"
        f"  url: {PYTHON}\n  sha256: {SHA}\n  md5: {'cd' * 16}\n  depends: []\n  size: 10\n"
        f"- kind: pypi\n  name: attrs\n  version: 25.1.0\n  url: {WHEEL}\n  sha256: {SHA}\n"
    )
    locked = read_lock(path, "default", "linux-64")
    assert [package.record["version"] for package in locked.conda] == ["3.12.11"]
    assert [wheel.sha256 for wheel in locked.wheels] == [SHA]


def test_reads_version_7_as_the_library_writes_it(tmp_path: Path) -> None:
    from rattler import LockFile

    LockFile.from_path(write_lock(tmp_path, conda(PYTHON), conda(COWPY))).to_path(tmp_path / "seven.lock")
    assert "version: 7" in (tmp_path / "seven.lock").read_text()
    locked = read_lock(tmp_path / "seven.lock", "default", "linux-64")
    assert sorted(package.record["name"] for package in locked.conda) == ["cowpy", "python"]


@pytest.mark.parametrize("version", [4, 8, 99])
def test_refuses_other_versions(tmp_path: Path, version: int) -> None:
    message = refusal(write_lock(tmp_path, conda(PYTHON), version=version))
    assert f"has lock version {version}, and versions 5 to 7 are read" in message


@pytest.mark.parametrize("text", ["", "no lock at all", "version: 6\nenvironments: [", "version: 6\n"])
def test_refuses_what_is_no_lock(tmp_path: Path, text: str) -> None:
    (tmp_path / "pixi.lock").write_text(text)
    assert str(tmp_path / "pixi.lock") in refusal(tmp_path / "pixi.lock")


def test_names_the_environments_and_platforms_there_are(tmp_path: Path) -> None:
    path = write_lock(tmp_path, conda(PYTHON))
    assert "has no environment gpu (it has default)" in refusal(path, environment="gpu")
    assert "no packages for linux-aarch64" in refusal(path, platform="linux-aarch64")
    assert "it has linux-64" in refusal(path, platform="linux-aarch64")


def test_takes_one_environment_and_platform_of_several(tmp_path: Path) -> None:
    arm = PYTHON.replace("linux-64", "linux-aarch64")
    path = tmp_path / "pixi.lock"
    path.write_text(
        f"version: 6\nenvironments:\n  default:\n    channels:\n    - url: {CHANNEL}/\n    packages:\n"
        f"      linux-64:\n      - conda: {PYTHON}\n      linux-aarch64:\n      - conda: {arm}\n"
        f"  gpu:\n    channels:\n    - url: {CHANNEL}/\n    packages:\n      linux-64:\n      - conda: {COWPY}\n"
        f"packages:\n{conda(PYTHON)}{conda(arm)}{conda(COWPY)}"
    )
    assert [package.url for package in read_lock(path, "default", "linux-64").conda] == [PYTHON]
    assert [package.url for package in read_lock(path, "default", "linux-aarch64").conda] == [arm]
    assert [package.url for package in read_lock(path, "gpu", "linux-64").conda] == [COWPY]


def test_takes_a_wheels_hash_from_its_address_too(tmp_path: Path) -> None:
    path = write_lock(tmp_path, pypi(f"{WHEEL}#sha256={SHA}", sha256=None))
    (wheel,) = read_lock(path, "default", "linux-64").wheels
    assert (wheel.sha256, wheel.url) == (SHA, WHEEL)


@pytest.mark.parametrize(
    ("package", "reason"),
    [
        (pypi(WHEEL, sha256=None), "attrs 25.1.0 has no SHA-256, so that what arrives could not be checked"),
        (pypi("https://files.example/attrs-25.1.0.tar.gz"), "attrs 25.1.0 is a source archive (attrs-25.1.0.tar.gz)"),
        (pypi("git+https://code.example/attrs?rev=main#abcdef", sha256=None), "comes from a source repository"),
        (pypi("./attrs", sha256=None), "is a path of the author's machine"),
        (pypi("./attrs-25.1.0-py3-none-any.whl", sha256=None), "is a path of the author's machine"),
        (conda(PYTHON).replace(f"  sha256: {SHA}\n", ""), "has no SHA-256"),
    ],
)
def test_refuses_what_cannot_be_carried_with_the_reason(tmp_path: Path, package: str, reason: str) -> None:
    assert reason in refusal(write_lock(tmp_path, package))


def test_names_every_package_that_cannot_be_carried(tmp_path: Path) -> None:
    message = refusal(
        write_lock(
            tmp_path,
            pypi("https://files.example/attrs-25.1.0.tar.gz"),
            pypi("https://files.example/six-1.0.1.zip", name="six", version="1.0.1"),
        )
    )
    assert "attrs 25.1.0 is a source archive" in message
    assert "six 1.0.1 is a source archive" in message


def test_refuses_conda_source_packages(tmp_path: Path) -> None:
    path = tmp_path / "pixi.lock"
    path.write_text(
        f"version: 6\nenvironments:\n  default:\n    channels:\n    - url: {CHANNEL}/\n    packages:\n      linux-64:\n"
        "      - conda: ./my-package\npackages:\n"
        "- conda: ./my-package\n  name: my-package\n  version: 0.1.0\n  build: h0_0\n  subdir: linux-64\n"
        f"  depends: []\n  input:\n    hash: {SHA}\n    globs: []\n"
    )
    assert "my-package is a source package" in refusal(path)


def test_returns_the_channels_in_order(tmp_path: Path) -> None:
    path = write_lock(tmp_path, conda(PYTHON))
    assert [channel.rstrip("/") for channel in read_channels(path, "default")] == [CHANNEL]


def test_keeps_tokens_out_of_records_errors_and_representations(tmp_path: Path) -> None:
    channel = "https://user:geheim@channels.example/t/tk-123/private/linux"
    url = f"{channel}/linux-64/python-3.12.11-h9e4cc4f_0_cpython.conda"
    path = write_lock(tmp_path, conda(url), channel=channel)
    (package,) = read_lock(path, "default", "linux-64").conda
    assert "tk-123" in package.url
    for text in (repr(package), str(package.record)):
        assert "tk-123" not in text
        assert "geheim" not in text
    broken = write_lock(tmp_path, conda(url).replace("sha256", "sha999"), conda(url), channel=channel)
    broken.write_text(broken.read_text().replace("/linux-64/python", "/no-such-platform/python"))
    message = refusal(broken)
    assert "tk-123" not in message
    assert "geheim" not in message


@pytest.mark.parametrize("channel", [CHANNEL, "https://me:pw@h.example/t/tk-1/conda-forge"])
def test_a_channels_name_is_the_end_of_its_address(tmp_path: Path, channel: str) -> None:
    url = PYTHON.replace(CHANNEL, channel)
    (package,) = read_lock(write_lock(tmp_path, conda(url), channel=channel), "default", "linux-64").conda
    assert package.channel_name == "conda-forge"
