"""Flow directories for benchmarks: the base environment's packages, and made wheels of a local index."""

from __future__ import annotations

import random
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

from airgap.hashing import sha256_of_file

_DATE = (1980, 1, 1, 0, 0, 0)


class Flows:
    """Flow directories below one directory, and the index that their own wheels are in."""

    def __init__(self, directory: Path, base: Path) -> None:
        """Make flows below *directory* that have all packages of the requirements file *base*."""
        self._directory = directory
        self._base = base
        self._index = directory / "simple"
        self._index.mkdir(parents=True)

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that make pip, and so the builder, look into the index as well."""
        return {"PIP_EXTRA_INDEX_URL": self._index.as_uri()}

    def add(self, name: str, wheels: Mapping[str, int], version: str = "1.0") -> Path:
        """Return the flow directory *name*, made or made anew, with *wheels* of that many bytes each."""
        flow = self._directory / name
        shutil.rmtree(flow, ignore_errors=True)
        flow.mkdir()
        (flow / "main.py").write_text(
            "from prefect import flow\n\n\n@flow\ndef my_workflow():\n    pass\n", encoding="utf-8"
        )
        lock = self._base.read_text(encoding="utf-8")
        for project, size in wheels.items():
            sha256 = self._publish(project, version, size)
            lock += f"{project.replace('_', '-')}=={version} \\\n    --hash=sha256:{sha256}\n"
        (flow / "requirements.txt").write_text(lock, encoding="utf-8")
        return flow

    def _publish(self, project: str, version: str, size: int) -> str:
        page = self._index / project.replace("_", "-")
        page.mkdir(exist_ok=True)
        wheel = page / f"{project}-{version}-py3-none-any.whl"
        _write_wheel(wheel, project, version, size)
        sha256 = sha256_of_file(wheel)
        links = (page / "index.html").read_text(encoding="utf-8") if (page / "index.html").exists() else ""
        links += f'<a href="{wheel.name}#sha256={sha256}">{wheel.name}</a>\n'
        (page / "index.html").write_text(links, encoding="utf-8")
        return sha256


def _write_wheel(path: Path, project: str, version: str, size: int) -> None:
    """Write a wheel that holds *size* bytes which no compression makes smaller."""
    record = f"{project}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.4\nName: {project}\nVersion: {version}\nLicense-Expression: MIT\n"
    wheel = "Wheel-Version: 1.0\nGenerator: pag\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    noise = random.Random(f"{project} {version}")  # noqa: S311  no secrets
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open(zipfile.ZipInfo(f"{project}/data.bin", _DATE), "w", force_zip64=True) as stream:
            while size > 0:
                stream.write(noise.randbytes(min(size, 1 << 20)))
                size -= 1 << 20
        names = {f"{record}/METADATA": metadata, f"{record}/WHEEL": wheel}
        lines = [f"{project}/data.bin,,", *(f"{name},," for name in names), f"{record}/RECORD,,"]
        for name, text in (names | {f"{record}/RECORD": "\n".join(lines) + "\n"}).items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), text)
