"""The licence in a Debian package's ``copyright`` file.

Most are machine-readable, as the Debian Policy's "copyright-format" 1.0 (DEP-5) says. Of the others, only what they
refer to in ``/usr/share/common-licenses`` can be said.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

from cyclonedx.spdx import fixup_id
from debian.copyright import Copyright, NotMachineReadableError

from airgap.spdx import is_spdx, own_name

# It warns of every address of the format that is not today's.
logging.getLogger("debian.copyright").setLevel(logging.ERROR)

_COMMON_LICENCE = re.compile(r"/usr/share/common-licenses/([A-Za-z0-9][A-Za-z0-9+.-]*[A-Za-z0-9+])")
_GNU = re.compile(
    r"(?P<family>A?GPL|LGPL|GFDL)(?P<niv>-NIV)?-(?P<major>\d)(?P<minor>\.\d)?(?P<later>\+)?"
    r"(?: with (?P<exception>.+?)(?: exceptions?)?)?",
    re.IGNORECASE,
)
_EXCEPTIONS = {
    "autoconf": "Autoconf-exception-generic",
    "bison": "Bison-exception-2.2",
    "classpath": "Classpath-exception-2.0",
    "font": "Font-exception-2.0",
    "libtool": "Libtool-exception",
    "linux-syscall-note": "Linux-syscall-note",
    "texinfo": "Texinfo-exception",
}
# Debian's short names that SPDX has under others; those that differ in case only need no entry.
_SHORT_NAMES = {
    "apache-2": "Apache-2.0",
    "artistic": "Artistic-1.0-Perl",
    "artistic-2": "Artistic-2.0",
    "cc0": "CC0-1.0",
    "expat": "MIT",
    "mpl-2": "MPL-2.0",
    "psf-2": "PSF-2.0",
}


def licence_of_copyright(text: str) -> str | None:
    """Return the licences that the copyright file *text* names, or None where a program cannot tell.

    Of a machine-readable file, all of them together as one SPDX expression, with Debian's names in SPDX's words; of
    another one, ``refers to`` and the names of the common licences that it mentions.
    """
    try:
        synopses = _synopses(text)
    except (NotMachineReadableError, ValueError, TypeError, KeyError):  # the library's own for odd files
        names = _common_licences(text)
        return f"refers to {', '.join(names)}" if names else None
    clauses = {clause for synopsis in synopses for clause in _clauses(synopsis)}
    if len(clauses) > 1:
        clauses = {f"({clause})" if " OR " in clause else clause for clause in clauses}
    return " AND ".join(sorted(clauses)) or None


def _synopses(text: str) -> list[str]:
    copyright_file = Copyright(text.splitlines(keepends=True), strict=False)
    if copyright_file.header.format is None:
        raise NotMachineReadableError("it names no format")
    paragraphs: list[Any] = list(copyright_file.all_files_paragraphs()) or [copyright_file.header]
    return [paragraph.license.synopsis for paragraph in paragraphs if paragraph.license is not None]


def _clauses(synopsis: str) -> Iterator[str]:
    """Yield the SPDX expressions that hold all together; "and" binds closer than "or", but not after a comma."""
    for part in re.split(r",\s+and\s+", " ".join(synopsis.split())):
        alternatives = [re.split(r"\s+and\s+", text) for text in re.split(r",?\s+or\s+", part) if text]
        if len(alternatives) == 1:
            yield from map(_identifier, alternatives[0])
        elif alternatives:
            yield " OR ".join(sorted({" AND ".join(sorted(map(_identifier, names))) for names in alternatives}))


def _identifier(name: str) -> str:
    """Return Debian's short *name* of one licence in SPDX's words."""
    if (known := _SHORT_NAMES.get(name.lower())) is not None:
        return known
    if (match := _GNU.fullmatch(name)) is not None:
        identifier = (
            f"{match['family'].upper()}-{match['major']}{match['minor'] or '.0'}"
            f"{'-no-invariants' if match['niv'] else ''}{'-or-later' if match['later'] else '-only'}"
        )
        if match["exception"]:
            identifier += f" WITH {_EXCEPTIONS.get(match['exception'].lower(), '')}"
        if is_spdx(identifier):
            return identifier
    return fixup_id(name) or own_name(name)


def _common_licences(text: str) -> list[str]:
    """Return the common licences that *text* refers to; a family's bare name only where no version is named."""
    names = set(_COMMON_LICENCE.findall(text))
    return sorted(name for name in names if not any(other.startswith(f"{name}-") for other in names))
