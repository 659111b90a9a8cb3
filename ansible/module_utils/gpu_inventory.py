"""The GPUs that a machine has, as its devices and its driver's own program show them. Standard library only."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

_SECONDS = 20.0
_DEVICE = re.compile(r"nvidia(\d+)")
# GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
_LISTED = re.compile(r"^GPU (?P<id>\d+): (?P<name>.+) \(UUID: (?P<uuid>[^)]+)\)$", re.MULTILINE)
_DRIVER = re.compile(r"Driver Version\s*:\s*([0-9.]+)")
_CUDA = re.compile(r"CUDA(?: UMD)? Version\s*:\s*([0-9.]+)")

Ask = Callable[[list[str]], str]


def inventory(root: Path = Path("/"), ask: Ask | None = None) -> dict[str, Any]:
    """Return what there is: ``devices`` (ids with a device), ``gpus`` (id, name, uuid), ``driver``, ``cuda``, ``amd``.

    *amd* is the number of AMD's GPUs. Where there is nothing to be found, all are empty: ids are not checked then.
    """
    ask = ask or _ask
    devices = sorted(int(match[1]) for name in _names(root / "dev") if (match := _DEVICE.fullmatch(name)))
    listed = _LISTED.findall(ask(["nvidia-smi", "-L"]))
    said = ask(["nvidia-smi"]) if listed else ""
    rendering = [name for name in _names(root / "dev/dri") if name.startswith("renderD")]
    return {
        "devices": [str(number) for number in devices],
        "gpus": [{"id": gpu, "name": name, "uuid": uuid} for gpu, name, uuid in listed],
        "driver": _first(_DRIVER, said),
        "cuda": _first(_CUDA, said),
        "amd": len(rendering) if (root / "dev/kfd").exists() else 0,
    }


def check_gpus(wanted: Sequence[str], found: dict[str, Any]) -> Iterator[str]:
    """Yield a problem where *wanted* GPUs, by number or UUID, are not among those *found*, if there are any."""
    numbers = {gpu["id"] for gpu in found["gpus"]} or set(found["devices"])
    uuids = [gpu["uuid"] for gpu in found["gpus"]]
    if not numbers:
        numbers = {str(number) for number in range(found["amd"])}
    if not numbers:
        return
    # CUDA takes the beginning of a UUID; without the driver's program, nobody can tell.
    missing = [
        gpu
        for gpu in wanted
        if (gpu not in numbers if gpu.isdecimal() else bool(uuids) and not any(uuid.startswith(gpu) for uuid in uuids))
    ]
    if missing:
        has = ", ".join(sorted(numbers, key=int))
        names = "; ".join(f"{gpu['id']} is {gpu['name']}, {gpu['uuid']}" for gpu in found["gpus"])
        yield (
            f"has no GPU {', '.join(missing)}, which worker_gpu_ids names, but {has}{f' ({names})' if names else ''}: "
            "correct worker_gpu_ids, or look at its driver."
        )


def _ask(command: list[str]) -> str:
    """Return what a program prints; nothing where it is not installed or finds no driver."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found[1] if found else None


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()] if directory.is_dir() else []
