"""The licence that a wheel states; standard library only, for the builder and the controller."""

from __future__ import annotations

import zipfile
from email.parser import HeaderParser
from pathlib import Path

from airgap.errors import ResolutionError

_LONGEST_LICENCE = 100


def wheel_licence(path: Path) -> str | None:
    """Return the licence that the wheel at *path* states in its METADATA, or None where it states none in a line.

    Raises ResolutionError when the file is no wheel.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            metadata = next(
                name for name in archive.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1
            )
            headers = HeaderParser().parsestr(archive.read(metadata).decode("utf-8", "replace"))
    except (zipfile.BadZipFile, StopIteration, KeyError) as error:
        raise ResolutionError(f"{path.name} is no wheel: use another package index, or lock again.") from error
    for text in (headers["License-Expression"], headers["License"]):
        stated = str(text or "").strip()
        if stated and stated != "UNKNOWN" and len(stated) <= _LONGEST_LICENCE and "\n" not in stated:
            return stated
    classifiers = [str(value) for value in headers.get_all("Classifier", []) if str(value).startswith("License :: ")]
    names = sorted({value.rpartition(" :: ")[2] for value in classifiers} - {"OSI Approved"})
    return " OR ".join(names) if len(names) == 1 else ", ".join(names) or None
