"""Targets: what operators may write, and what the package managers call the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from airgap.errors import UsageError
from airgap.sources.wheels import marker_environment, wheel_tags
from airgap.targets import RELEASES, host_target, parse_target


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(
    ("architecture", "debian", "conda"), [("x86_64", "amd64", "linux-64"), ("aarch64", "arm64", "linux-aarch64")]
)
def test_every_release_on_every_architecture(release: str, architecture: str, debian: str, conda: str) -> None:
    target = parse_target(f"{release}-{architecture}")
    assert target == parse_target(release, architecture)
    assert target.name == f"{release}-{architecture}"
    assert (target.debian_architecture, target.conda_platform) == (debian, conda)
    markers = marker_environment(target, target.release.python)
    assert (markers["platform_machine"], markers["python_version"]) == (architecture, target.release.python)
    tags = [str(tag) for tag in wheel_tags(target, target.release.python)]
    minor = target.release.glibc.partition(".")[2]
    python = "cp" + target.release.python.replace(".", "")
    assert tags[0] == f"{python}-{python}-manylinux_2_{minor}_{architecture}"
    assert f"{python}-abi3-manylinux2014_{architecture}" in tags
    assert "py3-none-any" in tags
    assert not [tag for tag in tags if tag.endswith("x86_64" if architecture == "aarch64" else "aarch64")]


@pytest.mark.parametrize("name", ["debian-11", "debian", "fedora-40", "debian-12-riscv64", "debian-12-amd64", ""])
def test_what_is_no_target_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(UsageError, match=r"is not known: give one of debian-12, .* with -x86_64 or -aarch64"):
        parse_target(name)


def test_the_hosts_own(tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text('ID=ubuntu\nVERSION_ID="24.04"\n')
    assert host_target("aarch64", release).name == "ubuntu-24.04-aarch64"
    release.write_text("ID=arch\n")
    with pytest.raises(UsageError, match=r"This host \(arch , x86_64\) is no target: .*--target"):
        host_target("x86_64", release)
