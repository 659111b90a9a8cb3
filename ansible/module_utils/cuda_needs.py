"""What an environment's conda packages demand of the node's CUDA driver: the virtual package ``__cuda``.

Standard library only. Installing looks at no dependencies, so this is the place where they are seen.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

_CLAUSE = re.compile(r"(?P<operator>>=|<=|==|!=|>|<|=|)\s*(?P<version>[0-9.]+)(?P<star>\.\*|\*)?")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "!=": operator.ne,
}


def cuda_needs(description: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Yield package, demanded version and whether it needs CUDA at all, from an environment's description."""
    for package in description["conda"]:
        record = package.get("record") or {}
        for key, needs in (("depends", True), ("constrains", False)):
            for entry in record.get(key) or []:
                name, _, rest = entry.partition(" ")
                match = re.fullmatch(r"(__cuda)(.*)", name)
                if match:
                    version = (match[2] + rest).split()[0] if (match[2] + rest).split() else "*"
                    yield record.get("name", package["name"]), version, needs


def unmet(description: dict[str, Any], cuda: str | None) -> str | None:
    """Return what of an environment the node's driver, for CUDA up to *cuda*, is too old for; None when nothing is."""
    for package, version, needs in cuda_needs(description):
        if cuda is None:
            if needs:
                return f"{package} needs CUDA {version}, and the node has no NVIDIA driver"
        elif not satisfies(cuda, version):
            return f"{package} needs CUDA {version}, and the node's driver is for {cuda}"
    return None


def satisfies(version: str, specification: str) -> bool:
    """Whether a version is what conda's specification (``>=12.4,<14|*``) asks for."""
    return any(
        all(_fits(version, clause.strip()) for clause in choice.split(",")) for choice in specification.split("|")
    )


def _fits(version: str, clause: str) -> bool:
    if clause == "*":
        return True
    match = _CLAUSE.fullmatch(clause)
    if match is None:
        # Anything rarer is the solver's to read: it was content.
        return True
    found, wanted = _numbers(version), _numbers(match["version"])
    sign = match["operator"]
    if sign in ("", "=") and (match["star"] or sign == "="):
        return found[: len(wanted)] == wanted
    length = max(len(found), len(wanted))
    left, right = (numbers + (0,) * (length - len(numbers)) for numbers in (found, wanted))
    return _OPERATORS.get(sign, operator.eq)(left, right)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part)
