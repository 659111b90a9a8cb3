"""Which device files belong to the GPUs that a run has not leased."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import ANSIBLE

sys.path[:0] = [str(ANSIBLE / "roles/prefect_worker/files/run")]

from run_gpus import UnknownGpuError, closed_files  # noqa: E402

# As NVIDIA's driver tells it; the second on the bus has the first device file.
TOLD = "Model: \t\t NVIDIA A100\nGPU UUID: \t GPU-{uuid}\nBus Location: \t {bus}\nDevice Minor: \t {minor}\n"


def _write(root: Path, path: str, text: str = "") -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def nvidia(tmp_path: Path) -> Path:
    """A node with two GPUs of NVIDIA."""
    for number in (0, 1):
        _write(tmp_path, f"dev/nvidia{number}")
    _write(tmp_path, "dev/nvidiactl")
    _write(tmp_path, "dev/nvidia-uvm")
    return tmp_path


@pytest.fixture
def told(nvidia: Path) -> Path:
    """The same with a driver that tells of them."""
    for bus, uuid, minor in (("0000:07:00.0", "aaaa-1", 1), ("0000:0a:00.0", "bbbb-2", 0)):
        text = TOLD.format(bus=bus, uuid=uuid, minor=minor)
        _write(nvidia, f"proc/driver/nvidia/gpus/{bus}/information", text)
    return nvidia


@pytest.fixture
def amd(tmp_path: Path) -> Path:
    """A node with a processor and two GPUs of AMD, as the kernel's driver tells it."""
    for node, minor in (("0", 0), ("1", 128), ("2", 129)):
        text = f"simd_count {minor}\ndrm_render_minor {minor}\n"
        _write(tmp_path, f"sys/class/kfd/kfd/topology/nodes/{node}/properties", text)
    for minor, card in ((128, 1), (129, 2)):
        for name in (f"renderD{minor}", f"card{card}"):
            (tmp_path / f"sys/class/drm/renderD{minor}/device/drm/{name}").mkdir(parents=True)
    return tmp_path


def test_a_node_without_gpus_has_nothing_to_close(tmp_path: Path) -> None:
    assert closed_files(["0"], tmp_path) == closed_files([], tmp_path) == []


def test_without_a_driver_that_tells_numbers_are_those_of_the_files(nvidia: Path) -> None:
    assert closed_files(["1"], nvidia) == ["/dev/nvidia0"]
    assert closed_files(["0", "1"], nvidia) == []
    assert closed_files([], nvidia) == ["/dev/nvidia0", "/dev/nvidia1"]


@pytest.mark.parametrize("name", ["0", "GPU-aaaa-1", "GPU-aa"])
def test_numbers_are_places_on_the_bus_and_uuids_may_be_short(told: Path, name: str) -> None:
    assert closed_files([name], told) == ["/dev/nvidia0"]


def test_amds_have_a_renderer_and_a_card(amd: Path) -> None:
    assert closed_files(["0"], amd) == ["/dev/dri/card2", "/dev/dri/renderD129"]
    assert len(closed_files([], amd)) == 4


@pytest.mark.parametrize("name", ["MIG-cccc-3", "2"])
def test_a_gpu_that_nobody_knows_closes_nothing(told: Path, name: str) -> None:
    with pytest.raises(UnknownGpuError, match=f"which device file the GPU {name} has"):
        closed_files([name], told)
