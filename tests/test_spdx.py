from __future__ import annotations

import pytest

from airgap.spdx import in_spdx, is_spdx, own_name


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("MIT", "MIT"),
        ("bsd-3-clause", "BSD-3-Clause"),
        ("MIT License", "MIT"),
        ("The MIT License", "MIT"),
        ("Apache 2.0", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("Modified BSD License", "BSD-3-Clause"),
        ("Mozilla Public License 2.0 (MPL 2.0)", "MPL-2.0"),
        ("Python Software Foundation License", "PSF-2.0"),
        ("MIT OR  Apache-2.0", "MIT OR Apache-2.0"),
        ("GPL-3.0-only WITH GCC-exception-3.1", "GPL-3.0-only WITH GCC-exception-3.1"),
        ("MIT AND LicenseRef-Mine", "MIT AND LicenseRef-Mine"),
        # These say less than one licence.
        ("BSD License", "BSD License"),
        ("BSD", "BSD"),
        ("Dual License", "Dual License"),
    ],
)
def test_in_spdx(stated: str, expected: str) -> None:
    assert in_spdx(stated) == expected


def test_what_is_an_expression() -> None:
    assert is_spdx("(MIT OR LicenseRef-a.b-c) AND ISC")
    assert not is_spdx("refers to GPL-2, LGPL-2.1")
    assert not is_spdx("LicenseRef-")


def test_a_name_of_ones_own_is_an_expression() -> None:
    assert own_name("__AUTO__/X+") == "LicenseRef-AUTO-X"
    assert is_spdx(own_name("__AUTO__/X+"))
