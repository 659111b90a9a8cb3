"""What rattler makes of a conda package in a prefix: which files with which content.

Computed from the package itself: its ``info/paths.json`` names the files, and which of them hold the place where they
were built, which is replaced by the prefix.
"""

from __future__ import annotations

import json
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airgap.audit_rules import Rules, conda_meta_rule, link_rule
from airgap.environment import Environment, PackageFile
from airgap.errors import VerificationError
from airgap.hashing import sha256_of_bytes, sha256_of_file

# Linux reads this many bytes of a program's first line.
_LONGEST_SHEBANG = 127
_SHEBANG = re.compile(rb"^#!\s*(\S+)(.*)$", re.DOTALL)
_LAUNCHER = """\
# -*- coding: utf-8 -*-
import re
import sys

from {module} import {name}

if __name__ == '__main__':
\tsys.argv[0] = re.sub(r'(-script\\.pyw?|\\.exe)?$', '', sys.argv[0])
\tsys.exit({function}())
"""


@dataclass(frozen=True)
class _Placed:
    """A file with the place where it was built in it."""

    content: bytes
    placeholder: bytes
    binary: bool


@dataclass(frozen=True)
class CondaFiles:
    """A conda package's files, as they are installed for one version of Python."""

    shared: Rules
    """By path below the prefix: files that are the same in every prefix."""
    placed: dict[str, _Placed]
    entry_points: tuple[str, ...]
    python: str
    environment_variables: dict[str, bytes]
    """Content of ``etc/conda/env_vars.d/*.json``, by path."""

    def in_prefix(self, prefix: str) -> Rules:
        """Return the rules that depend on the prefix, by path below it."""
        rules = {
            path: sha256_of_bytes(replaced(file.content, file.placeholder, prefix.encode(), binary=file.binary))
            for path, file in self.placed.items()
        }
        for entry_point in self.entry_points:
            program, module, function = _parse_entry_point(entry_point)
            launcher = _LAUNCHER.format(module=module, name=function.partition(".")[0], function=function)
            first = _shebang(f"#!{prefix}/bin/python{self.python}".encode())
            rules[f"bin/{program}"] = sha256_of_bytes(first + b"\n" + launcher.encode())
        return rules


def read_conda(package: PackageFile, unpacked: Path, environment: Environment) -> CondaFiles:
    """Return what *package*, which was unpacked into *unpacked*, becomes in *environment*.

    Raises VerificationError when it has no list of files.
    """
    try:
        index = _read_json(unpacked / "info/index.json")
        listed = _read_json(unpacked / "info/paths.json")["paths"]
    except (OSError, ValueError, KeyError) as error:
        raise VerificationError(f"{package.path} has no info/paths.json ({error}), so it cannot be audited.") from error
    noarch = index.get("noarch") == "python"
    entry_points: tuple[str, ...] = ()
    if noarch and (unpacked / "info/link.json").is_file():
        link = _read_json(unpacked / "info/link.json").get("noarch") or {}
        entry_points = tuple(link.get("entry_points") or ())
    shared: Rules = {}
    placed: dict[str, _Placed] = {}
    variables: dict[str, bytes] = {}
    names = []
    for entry in listed:
        if entry["path_type"] == "directory":
            continue
        source = unpacked / entry["_path"]
        path = _noarch_path(entry["_path"], environment.python) if noarch else entry["_path"]
        names.append(path)
        placeholder = entry.get("prefix_placeholder")
        if stat.S_ISLNK(source.lstat().st_mode):
            shared[path] = link_rule(str(source.readlink()))
        elif placeholder:
            placed[path] = _Placed(source.read_bytes(), placeholder.encode(), entry.get("file_mode") == "binary")
        else:
            shared[path] = sha256_of_file(source)
        if re.fullmatch(r"etc/conda/env_vars\.d/[^/]+\.json", path):
            variables[path] = source.read_bytes()
    names += [f"bin/{_parse_entry_point(entry_point)[0]}" for entry_point in entry_points]
    record = (package.record or {}) | {"files": names, "sha256": package.sha256}
    meta = f"conda-meta/{record['name']}-{record['version']}-{record['build']}.json"
    return CondaFiles(shared | {meta: conda_meta_rule(record)}, placed, entry_points, environment.python, variables)


def replaced(content: bytes, placeholder: bytes, prefix: bytes, *, binary: bool) -> bytes:
    """Return *content* with *prefix* for *placeholder*, as rattler writes it.

    In *binary* files, the text that a NUL ends keeps its length, filled with NULs.
    """
    if binary:
        pattern = re.compile(re.escape(placeholder) + rb"[^\0]*")

        def shorter(match: re.Match[bytes]) -> bytes:
            length = len(match[0])
            return match[0].replace(placeholder, prefix)[:length].ljust(length, b"\0")

        return pattern.sub(shorter, content)
    if content.startswith(b"#!"):
        first, newline, rest = content.partition(b"\n")
        return _shebang(first.replace(placeholder, prefix)) + newline + rest.replace(placeholder, prefix)
    return content.replace(placeholder, prefix)


def _shebang(line: bytes) -> bytes:
    """Return the first *line* of a program as rattler writes it: too long for Linux, it takes a detour."""
    match = _SHEBANG.match(line)
    if len(line) <= _LONGEST_SHEBANG or match is None:
        return line
    program = match[1].rpartition(b"/")[2]
    if program.startswith(b"python"):
        return b"#!/bin/sh\n'''exec' \"" + match[1] + b'"' + match[2] + b' "$0" "$@" #\'\'\''
    return b"#!/usr/bin/env " + program + match[2]


def _noarch_path(path: str, python: str) -> str:
    if path.startswith("site-packages/"):
        return f"lib/python{python}/{path}"
    if path.startswith("python-scripts/"):
        return f"bin/{path.removeprefix('python-scripts/')}"
    return path


def _parse_entry_point(text: str) -> tuple[str, str, str]:
    program, _, place = text.partition("=")
    module, _, function = place.partition(":")
    return program.strip(), module.strip(), function.strip()


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))
