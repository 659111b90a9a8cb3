"""Which device files belong to GPUs that a run has not leased. Standard library only.

GPUs are called as their programs call them: by their place in the order of the PCI bus, or NVIDIA's by their UUID or
its beginning. The drivers tell which is which: NVIDIA's in /proc/driver/nvidia, AMD's (amdkfd) in /sys/class/kfd.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

LOCKS = Path("/run/pag/gpus")
"""Where the worker locks them: ``<id>.lock`` for each."""

_NVIDIA = re.compile(r"nvidia(\d+)")
_FACT = re.compile(r"^(GPU UUID|Device Minor):\s*(\S+)", re.MULTILINE)
_RENDER = re.compile(r"^drm_render_minor (\d+)$", re.MULTILINE)


class Device(NamedTuple):
    """A GPU and its device files."""

    number: str
    uuid: str
    """Empty where there is none."""
    files: tuple[str, ...]

    def is_called(self, name: str) -> bool:
        """Whether *name* is this one's."""
        return name == self.number or (not name.isdecimal() and bool(self.uuid) and self.uuid.startswith(name))


class UnknownGpuError(Exception):
    """A GPU is called by a name that the node's drivers do not tell; the message is a sentence."""


def closed_files(leased: Sequence[str], root: Path = Path("/")) -> list[str]:
    """Return the device files of the node's other GPUs.

    Raises UnknownGpuError for one that is *leased* and cannot be found, such as a part of a GPU.
    """
    kinds = [devices for devices in (_nvidias(root), _amds(root)) if devices]
    for name in leased:
        if kinds and not any(device.is_called(name) for devices in kinds for device in devices):
            raise UnknownGpuError(f"nobody knows which device file the GPU {name} has")
    others = [device for devices in kinds for device in devices if not any(map(device.is_called, leased))]
    return [file for device in others for file in device.files]


def _nvidias(root: Path) -> list[Device]:
    minors = sorted(int(match[1]) for name in _names(root / "dev") if (match := _NVIDIA.fullmatch(name)))
    told = [
        dict(_FACT.findall((directory / "information").read_text(encoding="utf-8")))
        for directory in sorted(_paths(root / "proc/driver/nvidia/gpus"))
    ]
    if not told:
        return [Device(str(minor), "", (f"/dev/nvidia{minor}",)) for minor in minors]
    return [
        Device(str(number), facts.get("GPU UUID", ""), (f"/dev/nvidia{facts['Device Minor']}",))
        for number, facts in enumerate(told)
    ]


def _amds(root: Path) -> list[Device]:
    nodes = sorted(_paths(root / "sys/class/kfd/kfd/topology/nodes"), key=lambda path: int(path.name))
    found = [_RENDER.search((node / "properties").read_text(encoding="utf-8")) for node in nodes]
    # Processors are nodes too, and have none.
    minors = [match[1] for match in found if match and match[1] != "0"]
    return [Device(str(number), "", _drm(root, minor)) for number, minor in enumerate(minors)]


def _drm(root: Path, minor: str) -> tuple[str, ...]:
    """Return the files of the graphics device with a renderer's number: the renderer's, and the card's."""
    names = _names(root / f"sys/class/drm/renderD{minor}/device/drm") or [f"renderD{minor}"]
    return tuple(f"/dev/dri/{name}" for name in sorted(names))


def _paths(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.is_dir() else []


def _names(directory: Path) -> list[str]:
    return [path.name for path in _paths(directory)]
