"""Write a packed environment in pixi-pack's format, with one fault.

Runs on the controller, on its own Python: ``python3 - DESCRIPTION MIRROR FAULT PACK < bad_packs.py``. It is no reader's
own writer, so that a reader is held against the format and not against itself.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Members = dict[str, bytes]
Records = dict[str, dict[str, Any]]

SDIST = "pypi/cowpy-1.1.5.tar.gz"
LEAVING = {
    "parent": "../escaped-from-pack",
    "absolute": "/tmp/escaped-from-pack",
    "hidden-parent": "pypi/../../escaped-from-pack",
}
LINK = "pypi/linked-1.0-py3-none-any.whl"
LINKED = "/etc/hostname"


def read(description: Path, mirror: Path) -> tuple[dict[str, Records], Members]:
    """Return the records by platform, and the packages by path in a pack, of an environment that the mirror has."""
    environment = json.loads(description.read_text(encoding="utf-8"))
    records: dict[str, Records] = {"noarch": {}, environment["platform"]: {}}
    members: Members = {}
    for package in environment["conda"]:
        members[f"channel/{package['path'].removeprefix('conda/')}"] = (mirror / package["path"]).read_bytes()
        _, subdir, file_name = package["path"].split("/")
        records[subdir][file_name] = package["record"]
    for package in environment["wheels"]:
        members[package["path"]] = (mirror / package["path"]).read_bytes()
    return records, members


def complete(records: dict[str, Records], members: Members, platform: str) -> Members:
    """Return the pack's members, with what describes the packages."""
    for subdir, entries in records.items():
        repodata = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": entries, "repodata_version": 1}
        members[f"channel/{subdir}/repodata.json"] = json.dumps(repodata).encode()
    names = [f"{record['name']}={record['version']}" for entries in records.values() for record in entries.values()]
    lines = ["name: environment", "channels:", "- ./channel", "- nodefaults", "dependencies:"]
    lines += [f"- {name}" for name in sorted(names)]
    members["environment.yml"] = "\n".join([*lines, ""]).encode()
    metadata = {"version": "1", "pixi-pack-version": "0.7.10", "platform": platform}
    members["pixi-pack.json"] = json.dumps(metadata).encode()
    return members


def write(members: Members, pack: Path, spoil: Callable[[tarfile.TarFile], None] | None = None) -> None:
    """Write the tar; *spoil* adds to it."""
    with tarfile.open(pack, "w") as tar:
        for name in sorted(members):
            entry = tarfile.TarInfo(name)
            entry.size = len(members[name])
            tar.addfile(entry, io.BytesIO(members[name]))
        if spoil:
            spoil(tar)


def other_platform(records: dict[str, Records], members: Members) -> Members:
    """Make a whole pack for another platform: in its metadata, its channel and its records."""
    other = "linux-aarch64"
    moved: dict[str, Records] = {}
    for subdir, entries in records.items():
        name = other if subdir != "noarch" else subdir
        moved[name] = {file: {**record, "subdir": name} for file, record in entries.items()}
    renamed = {
        f"channel/{other}/{Path(path).name}" if path.startswith("channel/linux-64/") else path: content
        for path, content in members.items()
    }
    return complete(moved, renamed, other)


def with_changed_wheel(members: Members) -> Members:
    """Add a module to the wheel of typing_extensions, which stays a valid wheel of the same name."""
    path = next(path for path in members if path.startswith("pypi/typing_extensions-"))
    changed = io.BytesIO(members[path])
    with zipfile.ZipFile(changed, "a") as wheel:
        wheel.writestr("added_by_somebody.py", "")
    return {**members, path: changed.getvalue()}


def add_leaving(name: str) -> Callable[[tarfile.TarFile], None]:
    """Return what adds a file with that path."""

    def spoil(tar: tarfile.TarFile) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = 5
        tar.addfile(entry, io.BytesIO(b"gone\n"))

    return spoil


def add_link(kind: bytes) -> Callable[[tarfile.TarFile], None]:
    """Return what adds a link to a file of the machine."""

    def spoil(tar: tarfile.TarFile) -> None:
        entry = tarfile.TarInfo(LINK)
        entry.type = kind
        entry.linkname = LINKED
        tar.addfile(entry)

    return spoil


def main(description: str, mirror: str, fault: str, output: str) -> None:
    """Write the pack with the fault; ``none`` is a good one."""
    records, members = read(Path(description), Path(mirror))
    pack, good = Path(output), "linux-64"
    match fault:
        case "none":
            write(complete(records, members, good), pack)
        case "platform":
            write(other_platform(records, members), pack)
        case "sdist":
            write({**complete(records, members, good), SDIST: b"\x1f\x8b"}, pack)
        case "wheel":
            write(with_changed_wheel(complete(records, members, good)), pack)
        case "symlink" | "hardlink":
            kind = tarfile.SYMTYPE if fault == "symlink" else tarfile.LNKTYPE
            write(complete(records, members, good), pack, add_link(kind))
        case "truncated":
            write(complete(records, members, good), pack)
            content = pack.read_bytes()
            pack.write_bytes(content[: len(content) * 2 // 3])
        case _:
            write(complete(records, members, good), pack, add_leaving(LEAVING[fault]))


if __name__ == "__main__":
    main(*sys.argv[1:])
