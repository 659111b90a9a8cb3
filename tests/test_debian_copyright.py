from __future__ import annotations

import pytest

from airgap.debian_copyright import licence_of_copyright
from airgap.spdx import is_spdx

HEADER = "Format: https://policy.example/packaging-manuals/copyright-format/1.0/\n"


def copyright_file(*licences: str) -> str:
    paragraphs = "".join(f"\nFiles: {n}\nCopyright: me\nLicense: {name}\n" for n, name in enumerate(licences))
    return f"{HEADER}{paragraphs}\nLicense: Unused\n Some text.\n .\n License: not a field\n"


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (["Expat"], "MIT"),
        (["GPL-2+", "expat", "GPL-2+"], "GPL-2.0-or-later AND MIT"),
        (["LGPL-2.1"], "LGPL-2.1-only"),
        (["Artistic or GPL-1+"], "Artistic-1.0-Perl OR GPL-1.0-or-later"),
        (["GPL-1+ or Artistic, and Expat"], "(Artistic-1.0-Perl OR GPL-1.0-or-later) AND MIT"),
        (["GPL-2 and Expat or Zlib"], "GPL-2.0-only AND MIT OR Zlib"),
        (["GPL-3+ with Bison exception"], "GPL-3.0-or-later WITH Bison-exception-2.2"),
        (["GPL-2 with OpenSSL exception"], "LicenseRef-GPL-2-with-OpenSSL-exception"),
        (["GFDL-NIV-1.3+"], "GFDL-1.3-no-invariants-or-later"),
        (["public-domain", "MIT/X11"], "LicenseRef-MIT-X11 AND LicenseRef-public-domain"),
        (["BSD-3-clause\n Redistribution and use ..."], "BSD-3-Clause"),
    ],
)
def test_machine_readable(licences: list[str], expected: str) -> None:
    assert licence_of_copyright(copyright_file(*licences)) == expected
    assert is_spdx(expected)


def test_a_licence_in_the_header_alone() -> None:
    assert licence_of_copyright(f"{HEADER}License: ISC\n") == "ISC"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "This is Debian's a.\n\nSee /usr/share/common-licenses/GPL-2 and `/usr/share/common-licenses/LGPL'.",
            "refers to GPL-2, LGPL",
        ),
        ("In /usr/share/common-licenses/GPL and /usr/share/common-licenses/GPL-3.", "refers to GPL-3"),
        ("Do what you like.\n", None),
        ("", None),
    ],
)
def test_not_machine_readable(text: str, expected: str | None) -> None:
    assert licence_of_copyright(text) == expected


def test_another_address_of_the_format_is_no_matter(caplog: pytest.LogCaptureFixture) -> None:
    assert licence_of_copyright(copyright_file("ISC").replace("https:", "http:").replace("1.0/", "1.0")) == "ISC"
    assert not caplog.records
