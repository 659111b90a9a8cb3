"""Licences in SPDX's terms: expressions of identifiers, as https://spdx.org/licenses lists them."""

from __future__ import annotations

import re
from functools import lru_cache

from cyclonedx.spdx import fixup_id, is_expression

# A licence that SPDX does not list may stand in an expression under a name of one's own.
_OWN_NAME = re.compile(r"\bLicenseRef-[A-Za-z0-9.-]+")

# What packages state in place of an identifier, where it says which licence is meant. "BSD License" does not.
_OTHER_NAMES = {
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache license version 2.0": "Apache-2.0",
    "apache software license 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "2-clause bsd": "BSD-2-Clause",
    "bsd 2-clause": "BSD-2-Clause",
    "3-clause bsd": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "modified bsd": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "gnu general public license v2 or later (gplv2+)": "GPL-2.0-or-later",
    "gnu general public license v3 (gplv3)": "GPL-3.0-only",
    "gnu general public license v3 or later (gplv3+)": "GPL-3.0-or-later",
    "gnu lesser general public license v2 or later (lgplv2+)": "LGPL-2.0-or-later",
    "gnu lesser general public license v3 (lgplv3)": "LGPL-3.0-only",
    "gnu lesser general public license v3 or later (lgplv3+)": "LGPL-3.0-or-later",
    "isc license (iscl)": "ISC",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation": "PSF-2.0",
    "unlicense (unlicense)": "Unlicense",
}


@lru_cache(maxsize=1024)
def is_spdx(text: str) -> bool:
    """Return whether *text* is an SPDX licence expression."""
    return is_expression(_OWN_NAME.sub("MIT", text))


def in_spdx(text: str) -> str:
    """Return the licence *text* as an SPDX expression where it can be said as one, else as it is."""
    text = " ".join(text.split())
    if identifier := fixup_id(text):
        return identifier
    if is_spdx(text):
        return text
    name = text.lower().removeprefix("the ")
    for known in (name, name.removesuffix(" license")):
        if identifier := _OTHER_NAMES.get(known) or fixup_id(known):
            return identifier
    return text


def own_name(text: str) -> str:
    """Return *text* as a name that an SPDX expression takes for a licence that SPDX does not list."""
    return "LicenseRef-" + re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")
