from __future__ import annotations

import pytest

from airgap.version_order import is_newer


@pytest.mark.parametrize(
    ("kind", "old", "new", "expected"),
    [
        ("deb", "2.36-9+deb12u9", "2.36-9+deb12u10", True),
        ("deb", "1:1.0", "2.0", False),
        ("deb", "1.0~rc1", "1.0", True),
        ("deb", "1.0", "1.00", None),
        ("wheel", "1.9", "1.10", True),
        ("wheel", "2.0rc1", "2.0", True),
        ("wheel", "2.0", "2", None),
        ("wheel", "1", "none at all", None),
        ("conda", "3.12.9", "3.12.10", True),
        ("conda", "2024a", "2023c", False),
    ],
)
def test_order(kind: str, old: str, new: str, expected: bool | None) -> None:
    assert is_newer(kind, old, new) is expected
    if expected is not None:
        assert is_newer(kind, new, old) is not expected
