"""Debian packages from the mirror: what is needed, and that nothing is used unchecked."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from ansible.module_utils.mirror_apt import Mirror, MirrorAptError, missing_packages, needed_files

NEEDS_APT = pytest.mark.skipif(
    not all(map(shutil.which, ("apt-get", "dpkg-deb", "dpkg-query"))), reason="needs apt and dpkg"
)


def _write_deb(directory: Path, name: str, depends: str = "") -> str:
    """Write the package *name* into *directory* and return its stanza for the index."""
    control = f"Package: {name}\nVersion: 1.0+x\nArchitecture: all\nMaintainer: T <t@test.invalid>\n{depends}"
    tree = directory / f"{name}.tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(f"{control}Description: test\n")
    file = directory / f"{name}_1.0+x_all.deb"
    subprocess.run(["dpkg-deb", "--build", str(tree), str(file)], check=True, capture_output=True)
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return f"{control}Filename: {file.name}\nSize: {len(content)}\nSHA256: {digest}\nDescription: test\n"


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    stanzas = [
        _write_deb(tmp_path, "pag-test-leaf", "Depends: pag-test-base\n"),
        _write_deb(tmp_path, "pag-test-base"),
        _write_deb(tmp_path, "pag-test-other"),
    ]
    return Mirror("\n".join(stanzas), tmp_path)


@NEEDS_APT
def test_a_package_needs_its_own_file_and_those_it_depends_on(mirror: Mirror) -> None:
    assert needed_files(["pag-test-leaf"], mirror) == ["pag-test-base_1.0+x_all.deb", "pag-test-leaf_1.0+x_all.deb"]


@NEEDS_APT
def test_what_is_needed_is_told_without_the_files(mirror: Mirror) -> None:
    for file in mirror.directory.glob("*.deb"):
        file.unlink()
    assert needed_files(["pag-test-other"], mirror) == ["pag-test-other_1.0+x_all.deb"]


@NEEDS_APT
def test_a_package_that_the_mirror_lacks_is_named(mirror: Mirror) -> None:
    with pytest.raises(MirrorAptError, match="Unable to locate package pag-test-nowhere"):
        needed_files(["pag-test-nowhere"], mirror)


@NEEDS_APT
def test_only_packages_that_are_not_installed_are_missing() -> None:
    assert missing_packages(["dpkg", "pag-test-leaf"]) == ["pag-test-leaf"]


@NEEDS_APT
def test_files_are_held_against_the_index(mirror: Mirror) -> None:
    name = "pag-test-base_1.0+x_all.deb"
    mirror.check([name])
    path = mirror.directory / name
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(MirrorAptError, match=r"pag-test-base_1\.0\+x_all\.deb is damaged"):
        mirror.check([name])
    path.unlink()
    with pytest.raises(MirrorAptError, match=r"pag-test-base_1\.0\+x_all\.deb is missing"):
        mirror.check([name])
