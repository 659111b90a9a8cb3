from __future__ import annotations

import pytest

from airgap.addresses import origin, redact


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@h.invalid:8443/a/b?token=x#y", "https://h.invalid:8443/a/b"),
        ("https://h.invalid/t/tk-123/channel/linux-64", "https://h.invalid/t/***/channel/linux-64"),
        ("https://token@h.invalid/t/", "https://h.invalid/t/"),
        ("file:///srv/channel", "file:///srv/channel"),
    ],
)
def test_redact(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_origin() -> None:
    assert origin("https://me:secret@h.invalid:8443/t/tk/a") == "https://h.invalid:8443"
    assert origin("file:///srv/a") == "/srv/a"
