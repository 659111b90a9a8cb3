from __future__ import annotations

from pathlib import Path

import pytest
from wheels import lock_line

from airgap.errors import LockError, ResolutionError
from airgap.hashing import sha256_of_bytes
from airgap.network import Network
from airgap.sources.interface import Download
from airgap.sources.package_index import IndexFile, PackageIndex
from airgap.sources.requirements_file import LockedRequirement
from airgap.sources.wheels import WheelSource, marker_environment, wheel_tags
from airgap.targets import parse_target

DEBIAN_12 = parse_target("debian-12")


class FakeIndex(PackageIndex):
    def __init__(self, names: list[str]) -> None:
        super().__init__(Network(), Path("none"))
        self.names = names

    def files(self, requirement: LockedRequirement) -> list[IndexFile]:
        return [IndexFile(name, f"https://i.invalid/{name}", sha256_of_bytes(name.encode()), 1) for name in self.names]


def choose(tmp_path: Path, names: list[str], target: str = "debian-12", python: str = "3.11") -> str:
    lock = tmp_path / "requirements.txt"
    lock.write_text(lock_line("a", "1", b""), encoding="utf-8")
    (download,) = WheelSource(FakeIndex(names)).resolve(lock, parse_target(target), python)
    return download.display_name


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("cp311-cp311-manylinux_2_36_x86_64", "cp311-cp311-manylinux2014_x86_64"),
        ("cp311-cp311-manylinux_2_28_x86_64", "cp311-abi3-manylinux_2_28_x86_64"),
        ("cp310-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64", "py3-none-manylinux_2_17_x86_64"),
        ("py3-none-any", "py30-none-any"),
        ("cp311-none-any", "py3-none-any"),
        ("cp311-cp311-manylinux1_x86_64", "cp311-cp311-linux_x86_64"),
    ],
)
def test_the_best_wheel_is_taken_whatever_the_order(tmp_path: Path, better: str, worse: str) -> None:
    names = [f"a-1-{better}.whl", f"a-1-{worse}.whl", "a-1.tar.gz"]
    assert choose(tmp_path, names) == names[0]
    assert choose(tmp_path, names[::-1]) == names[0]


def test_the_highest_build_number_is_taken(tmp_path: Path) -> None:
    assert choose(tmp_path, ["a-1-1-py3-none-any.whl", "a-1-9-py3-none-any.whl", "a-1-py3-none-any.whl"]) == (
        "a-1-9-py3-none-any.whl"
    )


@pytest.mark.parametrize(
    ("name", "target", "python"),
    [
        ("a-1-cp311-cp311-manylinux_2_37_x86_64.whl", "debian-12", "3.11"),  # needs a newer C library
        ("a-1-cp311-cp311-musllinux_1_2_x86_64.whl", "debian-12", "3.11"),
        ("a-1-cp312-cp312-manylinux_2_17_x86_64.whl", "debian-12", "3.11"),
        ("a-1-cp312-abi3-manylinux_2_17_x86_64.whl", "debian-12", "3.11"),
        ("a-1-cp311-cp311-manylinux_2_17_aarch64.whl", "debian-12", "3.11"),
        ("a-1-cp313-cp313t-manylinux_2_17_x86_64.whl", "debian-13", "3.13"),
        ("a-1.tar.gz", "debian-12", "3.11"),
    ],
)
def test_a_release_without_a_wheel_that_fits_is_refused(tmp_path: Path, name: str, target: str, python: str) -> None:
    with pytest.raises(ResolutionError, match=f"a 1 has no wheel for {target}-x86_64 with Python {python}"):
        choose(tmp_path, [name], target, python)


def test_aarch64(tmp_path: Path) -> None:
    name = "a-1-cp313-cp313-manylinux_2_17_aarch64.manylinux2014_aarch64.whl"
    assert choose(tmp_path, [name], "debian-13-aarch64", "3.13") == name


def test_a_hash_of_another_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="are those of evil"):
        choose(tmp_path, ["evil-1-py3-none-any.whl"])


def test_markers_know_the_distributions_own_release() -> None:
    assert marker_environment(DEBIAN_12, "3.11")["python_full_version"] == "3.11.2"
    assert marker_environment(DEBIAN_12, "3.12")["python_full_version"] == "3.12.0"
    assert marker_environment(DEBIAN_12, "3.12.11")["python_version"] == "3.12"


def test_the_first_tag_is_the_systems_own() -> None:
    # As `pip debug --verbose` prints it on such a system.
    assert str(next(wheel_tags(DEBIAN_12, "3.11"))) == "cp311-cp311-manylinux_2_36_x86_64"


def test_the_index_is_relative_and_has_hashes() -> None:
    source = WheelSource(FakeIndex([]))
    wheels = [Download("", f"mirror/pypi/{n}", "f" * 64, 1, "wheel", "My.Pkg", "1") for n in ("b+x-1.whl", "a-1.whl")]
    pages = {file.path: file.content.decode() for file in source.index(wheels)}
    assert set(pages) == {"mirror/pypi/simple/index.html", "mirror/pypi/simple/my-pkg/index.html"}
    assert '<a href="my-pkg/">' in pages["mirror/pypi/simple/index.html"]
    page = pages["mirror/pypi/simple/my-pkg/index.html"]
    assert f'<a href="../../b%2Bx-1.whl#sha256={"f" * 64}">b+x-1.whl</a>' in page
    assert page.index("a-1.whl") < page.index("b+x-1.whl")
