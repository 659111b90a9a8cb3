from __future__ import annotations

from pathlib import Path

import pytest
from wheels import make_wheel

from airgap.errors import ResolutionError
from airgap.wheel_licence import wheel_licence


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: MIT\n", "MIT"),
        ("License: BSD\n", "BSD"),
        ("License: UNKNOWN\n", None),
        ("License: Long\n        text\nClassifier: License :: OSI Approved :: ISC License\n", "ISC License"),
        ("Classifier: License :: OSI Approved\n", None),
        ("", None),
    ],
)
def test_licence(tmp_path: Path, metadata: str, licence: str | None) -> None:
    path = tmp_path / "a-1-py3-none-any.whl"
    path.write_bytes(make_wheel("a", "1", metadata=metadata))
    assert wheel_licence(path) == licence


def test_a_file_that_is_no_wheel_has_no_licence_to_read(tmp_path: Path) -> None:
    path = tmp_path / "a-1-py3-none-any.whl"
    path.write_bytes(b"no zip")
    with pytest.raises(ResolutionError, match="is no wheel"):
        wheel_licence(path)
