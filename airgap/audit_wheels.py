"""What uv makes of a wheel in a prefix: which files with which content.

Computed from the wheel itself (PEP 427), never from an installed RECORD.
"""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import io
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from airgap.audit_rules import UV_CACHE_NAME, Rules, optional, record_rule
from airgap.environment import Environment, PackageFile
from airgap.errors import VerificationError
from airgap.hashing import sha256_of_bytes

_BLOCK_BYTES = 1024 * 1024
_INSTALLER = b"uv"
# Linux reads this many bytes of a program's first line.
_LONGEST_SHEBANG = 127
_LAUNCHER = """\
# -*- coding: utf-8 -*-
import sys
from {module} import {name}
if __name__ == "__main__":
    if sys.argv[0].endswith("-script.pyw"):
        sys.argv[0] = sys.argv[0][:-11]
    elif sys.argv[0].endswith(".exe"):
        sys.argv[0] = sys.argv[0][:-4]
    sys.exit({function}())
"""


@dataclass(frozen=True)
class WheelFiles:
    """A wheel's files, as they are installed for one version of Python."""

    site_packages: str
    """Below the prefix."""
    information: str
    """Name of the ``.dist-info`` directory."""
    rules: Rules
    """By path below the prefix: files that are the same in every prefix."""
    rows: tuple[tuple[str, str, str], ...]
    """Of the installed RECORD, without those of scripts."""
    scripts: dict[str, bytes] = field(default_factory=dict)
    """Programs by name, without their first line, which names the prefix's interpreter."""

    @property
    def shared(self) -> Rules:
        """Rules that are the same in every prefix."""
        record = f"{self.site_packages}/{self.information}/RECORD"
        return self.rules if self.scripts else self.rules | {record: record_rule(self.rows)}

    def in_prefix(self, prefix: str) -> Rules:
        """Return the rules that depend on the prefix, by path below it."""
        if not self.scripts:
            return {}
        rules: Rules = {}
        rows = list(self.rows)
        up = "../" * (self.site_packages.count("/") + 1)
        for name, body in self.scripts.items():
            content = _shebang(f"{prefix}/bin/python") + body
            rules[f"bin/{name}"] = sha256_of_bytes(content)
            rows.append((f"{up}bin/{name}", _record_hash(hashlib.sha256(content)), str(len(content))))
        rules[f"{self.site_packages}/{self.information}/RECORD"] = record_rule(rows)
        return rules


def read_wheel(package: PackageFile, path: Path, environment: Environment) -> WheelFiles:
    """Return what the wheel *package*, which is the file at *path*, becomes in *environment*.

    Raises VerificationError when the file is no wheel.
    """
    site_packages = f"lib/python{environment.python}/site-packages"
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, package, site_packages, _headers(package, environment))
    except (zipfile.BadZipFile, KeyError, StopIteration, UnicodeDecodeError, configparser.Error) as error:
        raise VerificationError(f"{path} cannot be read as a wheel ({error}): carry the bundle over again.") from error


def _headers(package: PackageFile, environment: Environment) -> str:
    # A virtual environment has a place of its own for them, as its interpreter's is not below the prefix.
    site = "site/" if environment.interpreter == "system" else ""
    return f"include/{site}python{environment.python}/{re.sub(r'[-_.]+', '-', package.name).lower()}"


def _read(archive: zipfile.ZipFile, package: PackageFile, site_packages: str, headers: str) -> WheelFiles:
    members = [member for member in archive.infolist() if not member.is_dir()]
    information = next(
        member.filename.split("/")[0]
        for member in members
        if member.filename.endswith(".dist-info/WHEEL") and member.filename.count("/") == 1
    )
    data = f"{information.removesuffix('.dist-info')}.data/"
    places = {"purelib": site_packages, "platlib": site_packages, "headers": headers, "data": ""}
    rules: Rules = {}
    scripts: dict[str, bytes] = {}
    moved: dict[str, str | None] = {}
    for member in members:
        name = member.filename
        if name == f"{information}/RECORD":
            continue
        if not name.startswith(data):
            rules[f"{site_packages}/{name}"] = _digest(archive, member)
            continue
        scheme, _, rest = name.removeprefix(data).partition("/")
        if scheme == "scripts":
            content = archive.read(member)
            first, _, body = content.partition(b"\n")
            if first.rstrip() in (b"#!python", b"#!pythonw"):
                scripts[rest] = body
                moved[name] = None
            else:
                rules[f"bin/{rest}"] = sha256_of_bytes(content)
                moved[name] = f"bin/{rest}"
            continue
        place = f"{places[scheme]}/{rest}".lstrip("/")
        rules[place] = _digest(archive, member)
        moved[name] = place
    entry_points = f"{information}/entry_points.txt"
    if entry_points in archive.namelist():
        scripts |= _launchers(archive.read(entry_points).decode())
    rows = _rows(archive.read(f"{information}/RECORD").decode(), moved, site_packages, information)
    for name, content in (("INSTALLER", _INSTALLER), ("REQUESTED", b"")):
        rules[f"{site_packages}/{information}/{name}"] = sha256_of_bytes(content)
        rows.append((f"{information}/{name}", _record_hash(hashlib.sha256(content)), str(len(content))))
    rules[f"{site_packages}/{information}/{UV_CACHE_NAME}"] = optional("uv-cache")
    return WheelFiles(site_packages, information, rules, tuple(rows), scripts)


def _rows(text: str, moved: dict[str, str | None], site_packages: str, information: str) -> list[tuple[str, str, str]]:
    """Return the wheel's own rows as the installer keeps them; those of scripts are left out."""
    rows = []
    up = "../" * (site_packages.count("/") + 1)
    for row in csv.reader(io.StringIO(text)):
        if not row or row[0] in (f"{information}/INSTALLER", f"{information}/REQUESTED"):
            continue
        path, hashed, size = (*row, "", "")[:3]
        if path in moved:
            place = moved[path]
            if place is None:
                continue
            path = place.removeprefix(f"{site_packages}/") if place.startswith(f"{site_packages}/") else up + place
        rows.append((path, hashed, size))
    return rows


def _launchers(text: str) -> dict[str, bytes]:
    """Return what uv writes for each entry point that is a program, without the first line."""
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names of programs are not to be lower-cased
    parser.read_string(text)
    launchers = {}
    for section in ("console_scripts", "gui_scripts"):
        for name, value in parser.items(section) if parser.has_section(section) else ():
            module, _, function = value.partition("[")[0].replace(" ", "").partition(":")
            launchers[name] = _LAUNCHER.format(
                module=module, name=function.partition(".")[0], function=function
            ).encode()
    return launchers


def _shebang(interpreter: str) -> bytes:
    """Return the first line (or lines, where it is too long for Linux) that uv gives a program."""
    line = f"#!{interpreter}\n"
    if len(line) > _LONGEST_SHEBANG or " " in interpreter:
        line = f"#!/bin/sh\n'''exec' '{interpreter}' \"$0\" \"$@\"\n' '''\n"
    return line.encode()


def _digest(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    digest = hashlib.sha256()
    with archive.open(member) as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _record_hash(digest: hashlib._Hash) -> str:
    """Return *digest* as RECORD writes it."""
    return f"{digest.name}={base64.urlsafe_b64encode(digest.digest()).rstrip(b'=').decode()}"
