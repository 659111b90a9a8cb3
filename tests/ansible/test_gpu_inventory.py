"""Which GPUs a node has, and whether its driver is new enough for an environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible.module_utils.cuda_needs import satisfies, unmet
from ansible.module_utils.gpu_inventory import check_gpus, inventory

LISTED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6)
  MIG 1g.5gb Device 0: (UUID: MIG-1)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-77aa0000)
"""
SAID = "| NVIDIA-SMI 535.104.05    Driver Version: 535.104.05    CUDA Version: 12.2     |"


def _ask(command: list[str]) -> str:
    return LISTED if command == ["nvidia-smi", "-L"] else SAID


def _found(**values: Any) -> dict[str, Any]:
    return {"devices": [], "gpus": [], "driver": None, "cuda": None, "amd": 0} | values


def test_the_drivers_program_names_gpus_and_versions(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    for name in ("nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    found = inventory(tmp_path, _ask)
    assert found["devices"] == ["2", "10"]
    assert found["gpus"][1] == {"id": "1", "name": "NVIDIA A100-SXM4-40GB", "uuid": "GPU-77aa0000"}
    assert (found["driver"], found["cuda"]) == ("535.104.05", "12.2")


def test_amds_gpus_are_counted_and_a_machine_without_any_has_none(tmp_path: Path) -> None:
    assert inventory(tmp_path, lambda _: "") == _found()
    (tmp_path / "dev/dri").mkdir(parents=True)
    for name in ("kfd", "dri/card0", "dri/renderD128", "dri/renderD129"):
        (tmp_path / "dev" / name).touch()
    assert inventory(tmp_path, lambda _: "") == _found(amd=2)


@pytest.mark.parametrize(
    ("wanted", "found", "missing"),
    [
        (["0", "1"], _found(devices=["0", "1"]), None),
        (["0", "2"], _found(devices=["0", "1"]), "has no GPU 2, which worker_gpu_ids names, but 0, 1:"),
        (["0", "1"], _found(amd=1), "has no GPU 1"),
        (["GPU-1"], _found(gpus=[{"id": "0", "name": "A", "uuid": "GPU-11-22"}]), None),
        (["GPU-2"], _found(gpus=[{"id": "0", "name": "A", "uuid": "GPU-11-22"}]), "but 0 (0 is A, GPU-11-22)"),
        (["GPU-2"], _found(devices=["0"]), None),
        (["7"], _found(), None),
    ],
)
def test_what_a_node_has_not_is_refused_with_what_it_has(
    wanted: list[str], found: dict[str, Any], missing: str | None
) -> None:
    problems = list(check_gpus(wanted, found))
    assert [missing in problem for problem in problems] == ([True] if missing else [])  # type: ignore[operator]


@pytest.mark.parametrize(
    ("version", "specification", "fits"),
    [
        ("12.2", ">=12.4", False),
        ("12.4", ">=12.4", True),
        ("12.10", ">=12.4,<13", True),
        ("13.0", ">=12.4,<13.0a0", True),
        ("13.0", ">=12,<13", False),
        ("12", "12.0", True),
        ("12.2", "12.*", True),
        ("11.8", "12.*|>=11.8", True),
        ("11.8", "*", True),
    ],
)
def test_versions_of_cuda_are_compared_as_conda_does(version: str, specification: str, fits: bool) -> None:
    assert satisfies(version, specification) == fits


def _environment(**record: Any) -> dict[str, Any]:
    return {"conda": [{"name": "cuda-version", "record": record}, {"name": "python", "record": None}]}


def test_an_environment_that_needs_a_newer_driver_is_told_with_both_versions() -> None:
    needs = _environment(depends=["__cuda >=12.4"])
    assert unmet(needs, "12.2") == "cuda-version needs CUDA >=12.4, and the node's driver is for 12.2"
    assert unmet(needs, "12.4") is None
    assert unmet(needs, None) == "cuda-version needs CUDA >=12.4, and the node has no NVIDIA driver"


def test_a_constraint_counts_only_where_there_is_a_driver() -> None:
    constrained = _environment(
        constrains=["cudatoolkit 12.4|12.4.*", "__cuda >=12"], depends=["__glibc >=2.17", "__cuda"]
    )
    assert unmet(constrained, "11.8") == "cuda-version needs CUDA >=12, and the node's driver is for 11.8"
    assert unmet(_environment(constrains=["__cuda >=12"]), None) is None
