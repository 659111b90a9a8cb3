from __future__ import annotations

import io
import tarfile

import pytest

from airgap.hashing import sha256_of_bytes
from airgap.system_python import system_python_package
from airgap.targets import RELEASES, parse_target


@pytest.mark.parametrize("release", RELEASES)
def test_links_to_the_releases_own_python(release: str) -> None:
    target = parse_target(release)
    file, package = system_python_package(target)
    with tarfile.open(fileobj=io.BytesIO(file.content)) as archive:
        links = {member.name: member.linkname for member in archive if member.issym()}
    version = target.release.python
    assert links[f"bin/python{version}"] == f"/usr/bin/python{version}"
    assert package.record is not None
    assert (package.name, package.version, package.record["build"]) == ("python", version, "system_0")


def test_same_target_gives_same_bytes_that_the_record_describes() -> None:
    (first, package), (second, _) = (system_python_package(parse_target("debian-12")) for _ in range(2))
    assert first.content == second.content
    assert first.path == f"mirror/{package.path}" == "mirror/conda/linux-64/python-3.11-system_0.tar.bz2"
    assert package.record is not None
    assert package.record["sha256"] == package.sha256 == sha256_of_bytes(first.content)
    assert package.record["size"] == package.size == len(first.content)


def test_another_architecture_is_another_platform() -> None:
    file, _ = system_python_package(parse_target("debian-12-aarch64"))
    assert file.path.startswith("mirror/conda/linux-aarch64/")
