from __future__ import annotations

import pytest
from packaging.utils import parse_wheel_filename

from airgap.sources.wheels import wheel_tags
from airgap.targets import parse_target
from airgap.wheel_names import WheelName

NAMES = [
    "a-1.0-py3-none-any.whl",
    "a-1.0-py2.py3-none-any.whl",
    "a-1.0-py2-none-any.whl",
    "a-1.0-1-py3-none-any.whl",
    "a-1.0-py312-none-any.whl",
    "a-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "a-1.0-cp311-cp311-manylinux_2_39_x86_64.whl",
    "a-1.0-cp311-cp311-musllinux_1_2_x86_64.whl",
    "a-1.0-cp311-cp311-manylinux_2_17_aarch64.whl",
    "a-1.0-cp311-cp311-linux_x86_64.whl",
    "a-1.0-cp311-cp311t-manylinux_2_17_x86_64.whl",
    "a-1.0-cp312-cp312-manylinux_2_17_x86_64.whl",
    "a-1.0-cp39-abi3-manylinux1_x86_64.whl",
    "a-1.0-cp312-abi3-manylinux1_x86_64.whl",
    "a-1.0-cp310-none-any.whl",
    "a-1.0-py3-none-macosx_11_0_arm64.whl",
    "a-1.0-py3-none-manylinux_2_5_x86_64.manylinux1_x86_64.whl",
    "a-1.0-pp310-pypy310_pp73-manylinux_2_17_x86_64.whl",
]


@pytest.mark.parametrize("release", ["debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04"])
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_packaging(name: str, release: str) -> None:
    target = parse_target(release)
    tags = set(wheel_tags(target, target.release.python))
    expected = not tags.isdisjoint(parse_wheel_filename(name)[3])
    assert WheelName.parse(name).runs_on(target.release.python, "x86_64", target.release.glibc) == expected


def test_normalises_the_name() -> None:
    wheel = WheelName.parse("Ruamel.YAML_clib-0.2.14-cp311-cp311-linux_x86_64.whl")
    assert (wheel.name, wheel.version) == ("ruamel-yaml-clib", "0.2.14")


@pytest.mark.parametrize("name", ["a-1.0.tar.gz", "a.whl", "a-1.0-py3-none.whl", "a--py3-none-any.whl", ""])
def test_refuses_other_names(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a wheel"):
        WheelName.parse(name)
