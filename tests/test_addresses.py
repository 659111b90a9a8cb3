from __future__ import annotations

import pytest

from airgap.addresses import has_credentials, origin, redact, redact_text, without_credentials


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


def test_text_is_redacted_address_by_address() -> None:
    text = "E: http://me:secret@h.invalid/a and 'https://h.invalid/t/tk-1/b?token=c' (see README.md)"
    assert redact_text(text) == "E: http://h.invalid/a and 'https://h.invalid/t/***/b' (see README.md)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "- conda: https://me:pw@h.invalid/t/tk-1/forge/noarch/a-1-0.conda\n",
            "- conda: https://h.invalid/forge/noarch/a-1-0.conda\n",
        ),
        ("https://token@h.invalid/simple/", "https://h.invalid/simple/"),
        ("https://h.invalid/a?x=1&sig_token=abc&y=2#sha256=ff", "https://h.invalid/a?x=1&y=2#sha256=ff"),
        ("https://h.invalid/a?token=abc", "https://h.invalid/a"),
        ("git+ssh://git@h.invalid/a.git", "git+ssh://git@h.invalid/a.git"),
        # Nothing to hide: not a character is changed.
        ("url: https://h.invalid/a/?x=1#y  # file:///srv/t", "url: https://h.invalid/a/?x=1#y  # file:///srv/t"),
        ("requests==2.34.2 \\\n    --hash=sha256:ab\n", "requests==2.34.2 \\\n    --hash=sha256:ab\n"),
    ],
)
def test_without_credentials(text: str, expected: str) -> None:
    assert without_credentials(text) == expected


def test_origin() -> None:
    assert origin("https://me:secret@h.invalid:8443/t/tk/a") == "https://h.invalid:8443"
    assert origin("file:///srv/a") == "/srv/a"


@pytest.mark.parametrize(
    "text",
    [
        "https://me:secret@h.invalid/a",
        "https://token@h.invalid/a",
        "https://h.invalid/t/tk-123/channel",
        "https://h.invalid/simple?access_token=x",
        "conda-forge=https://me:secret@h.invalid/a",
    ],
)
def test_addresses_with_credentials(text: str) -> None:
    assert has_credentials(text)


@pytest.mark.parametrize(
    "text",
    ["https://h.invalid:8443/a@b", "file:///srv/channel", "https://h.invalid/?format=json", "you@h.invalid", "t/x"],
)
def test_texts_without_credentials(text: str) -> None:
    assert not has_credentials(text)
