"""Wheels' file names (PEP 427) and whether one runs on a target; standard library only, for the nodes' side."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

_LEGACY_PLATFORMS = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}


@dataclass(frozen=True)
class WheelName:
    """A wheel's file name, taken apart."""

    name: str
    """Normalised (PEP 503)."""
    version: str
    pythons: tuple[str, ...]
    abis: tuple[str, ...]
    platforms: tuple[str, ...]

    @classmethod
    def parse(cls, file_name: str) -> WheelName:
        """Return the parts of *file_name*; raises ValueError when it is no wheel's name."""
        parts = file_name.removesuffix(".whl").split("-")
        if not file_name.endswith(".whl") or len(parts) not in (5, 6) or not all(parts):
            raise ValueError(f"{file_name} is not the name of a wheel")
        pythons, abis, platforms = (tuple(part.split(".")) for part in parts[-3:])
        return cls(re.sub(r"[-_.]+", "-", parts[0]).lower(), parts[1], pythons, abis, platforms)

    def runs_on(self, python: str, architecture: str, glibc: str) -> bool:
        """Return whether a CPython *python* (major.minor) on Linux with that *glibc* can use it."""
        minor = int(python.split(".")[1])
        return any(
            _fits_python(interpreter, abi, minor) and _fits_platform(platform, architecture, int(glibc.split(".")[1]))
            for interpreter, abi, platform in product(self.pythons, self.abis, self.platforms)
        )


def _fits_python(interpreter: str, abi: str, minor: int) -> bool:
    match = re.fullmatch(r"(py|cp)3(\d*)", interpreter)
    if match is None:
        return False
    kind, wanted = match[1], int(match[2] or 0)
    if abi == "none":
        return wanted <= minor if kind == "py" else wanted == minor
    if abi == "abi3":
        return kind == "cp" and wanted <= minor
    return kind == "cp" and wanted == minor and abi == f"cp3{minor}"


def _fits_platform(platform: str, architecture: str, glibc_minor: int) -> bool:
    if platform == "any":
        return True
    label = platform.removesuffix(f"_{architecture}")
    if label == platform:
        return False
    match = re.fullmatch(r"manylinux_2_(\d+)", label)
    needed = int(match[1]) if match else _LEGACY_PLATFORMS.get(label, 0 if label == "linux" else None)
    return needed is not None and needed <= glibc_minor
