"""Wheels as conda packages."""

from __future__ import annotations

import configparser
import stat
import zipfile
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from channel.packages import PLACEHOLDER, File, Package

_SCRIPT = """\
#!{prefix}/bin/python3.11
import sys
from {module} import {first}
sys.exit({function}())
"""


def wheel_package(path: Path, python: str) -> Package:
    """Return the wheel at *path* as a conda package for *python* (major.minor)."""
    name, version, _, tags = parse_wheel_filename(path.name)
    pure = all(tag.platform == "any" for tag in tags)
    library = "site-packages" if pure else f"lib/python{python}/site-packages"
    scripts = "python-scripts" if pure else "bin"
    files: dict[str, File] = {}
    entry_points: list[str] = []
    depends = [f"python {python}.*"]
    licence = None
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            content = archive.read(member)
            executable = bool(member.external_attr >> 16 & stat.S_IXUSR)
            if ".data/scripts/" in member.filename:
                if content.startswith(b"#!python"):
                    content = content.replace(b"#!python", f"#!{PLACEHOLDER}/bin/python".encode(), 1)
                files[f"{scripts}/{Path(member.filename).name}"] = File(content, executable=True)
                continue
            if ".data/" in member.filename:
                kind, _, rest = member.filename.partition(".data/")[2].partition("/")
                if kind not in ("purelib", "platlib"):
                    continue
                files[f"{library}/{rest}"] = File(content, executable)
                continue
            files[f"{library}/{member.filename}"] = File(content, executable)
            if member.filename.endswith(".dist-info/METADATA"):
                headers = HeaderParser().parsestr(content.decode())
                licence = headers["License-Expression"]
                depends += _dependencies(headers.get_all("Requires-Dist") or [], python)
            elif member.filename.endswith(".dist-info/entry_points.txt"):
                entry_points = _console_scripts(content.decode())
    if not pure:
        for entry_point in entry_points:
            command, _, target = entry_point.partition(" = ")
            module, _, function = target.partition(":")
            script = _SCRIPT.format(prefix=PLACEHOLDER, module=module, function=function, first=function.split(".")[0])
            files[f"bin/{command}"] = File(script.encode(), executable=True)
    return Package(
        name=str(name),
        version=str(version),
        files=files,
        build="pyh0_0" if pure else f"py{python.replace('.', '')}h0_0",
        subdir="noarch" if pure else "linux-64",
        depends=depends,
        noarch="python" if pure else None,
        entry_points=entry_points if pure else [],
        licence=licence,
    )


def _dependencies(lines: list[str], python: str) -> list[str]:
    """Return the names that are needed on Linux; versions are those of one lock, so that none are stated."""
    environment = {"python_version": python, "python_full_version": f"{python}.2", "extra": ""}
    requirements = (Requirement(line) for line in lines)
    return sorted(
        {
            str(canonicalize_name(requirement.name))
            for requirement in requirements
            if requirement.marker is None or requirement.marker.evaluate(environment)
        }
    )


def _console_scripts(text: str) -> list[str]:
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign] # names of commands are as they are
    parser.read_string(text)
    if not parser.has_section("console_scripts"):
        return []
    return [f"{name} = {value.split('[')[0].strip()}" for name, value in parser.items("console_scripts")]
