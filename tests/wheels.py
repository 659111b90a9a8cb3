"""Small wheels, for tests."""

from __future__ import annotations

import io
import zipfile

from airgap.hashing import sha256_of_bytes


def make_wheel(
    name: str, version: str, *, metadata: str = "License-Expression: MIT\n", files: dict[str, str] | None = None
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in (files or {f"{name}.py": ""}).items():
            archive.writestr(zipfile.ZipInfo(path), content)
        text = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{metadata}"
        archive.writestr(zipfile.ZipInfo(f"{name}-{version}.dist-info/METADATA"), text)
    return buffer.getvalue()


def lock_line(name: str, version: str, *contents: bytes, marker: str = "") -> str:
    hashes = "".join(f" \\\n    --hash=sha256:{sha256_of_bytes(content)}" for content in contents)
    return f"{name}=={version}{f' ; {marker}' if marker else ''}{hashes}\n"


def simple_page(files: dict[str, bytes]) -> bytes:
    links = "".join(
        f'<a href="../../files/{name}#sha256={sha256_of_bytes(content)}">{name}</a>\n'
        for name, content in files.items()
    )
    return f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
