#!/usr/bin/env python3
"""Lock the conda packages of ``pixi.toml`` files without pixi: solve with rattler and write ``pixi.lock`` (version 6).

    python3 tools/lock_conda.py --records RECORDS.json PROJECT...     a list of channel records with their addresses
    python3 tools/lock_conda.py --channel URL PROJECT...              a channel: https:// or file://

For where pixi or the channel itself cannot be reached. Authors use ``pixi update``, which takes over what this wrote.
PyPI dependencies are not solved.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from airgap.errors import AirgapError, LockError
from airgap.index_formats import render_repodata

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOCK_VERSION = 6
# What pixi assumes of a Linux system when pixi.toml states nothing.
_ASSUMED_GLIBC = "2.28"
# In the order in which pixi writes them. Names, versions and builds are in the file's name.
_FIELDS = (
    "noarch", "sha256", "md5", "depends", "constrains", "license", "license_family",
    "python_site_packages_path", "size", "timestamp",
)  # fmt: skip


def lock_project(project: Path, channel: str, addresses: Mapping[str, str], lock_channel: str | None) -> int:
    """Solve ``pixi.toml`` in *project* over *channel*, write its ``pixi.lock``, and return how many packages it has.

    *addresses* gives the address to lock for ``<subdir>/<file>``; files that are not in it are locked as they were
    found. *lock_channel* is the address of the channel in the lock. Raises LockError when there is no solution.
    """
    manifest = tomllib.loads((project / "pixi.toml").read_text(encoding="utf-8"))
    workspace = manifest.get("workspace") or manifest["project"]
    if manifest.get("pypi-dependencies"):
        raise LockError(f"{project}/pixi.toml has PyPI dependencies, which this tool does not solve: use pixi lock.")
    libc = manifest.get("system-requirements", {}).get("libc", _ASSUMED_GLIBC)
    specs = [
        f"{name} {spec if isinstance(spec, str) else spec['version']}"
        for name, spec in manifest["dependencies"].items()
    ]
    packages: dict[str, list[dict[str, Any]]] = {}
    for platform in workspace["platforms"]:
        glibc = libc if isinstance(libc, str) else libc["version"]
        packages[platform] = asyncio.run(_solve(channel, specs, platform, glibc))
    for record in (record for records in packages.values() for record in records):
        record["url"] = addresses.get("/".join(record["url"].rsplit("/", 2)[1:]), record["url"])
    text = render_lock(packages, [lock_channel or channel])
    (project / "pixi.lock").write_text(text, encoding="utf-8")
    return len({record["url"] for records in packages.values() for record in records})


def render_lock(packages: Mapping[str, Iterable[Mapping[str, Any]]], channels: Iterable[str]) -> str:
    """Return ``pixi.lock`` with *packages* (channel records with ``url``, by platform) as the environment default."""
    by_url = {record["url"]: record for records in packages.values() for record in records}
    document = {
        "version": LOCK_VERSION,
        "environments": {
            "default": {
                "channels": [{"url": f"{channel.rstrip('/')}/"} for channel in channels],
                "packages": {
                    platform: [{"conda": url} for url in sorted(record["url"] for record in records)]
                    for platform, records in sorted(packages.items())
                },
            }
        },
        "packages": [
            {"conda": url}
            | _identity(record)
            | {key: record[key] for key in _FIELDS if record.get(key) not in (None, [])}
            for url, record in sorted(by_url.items())
        ],
    }
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=1000)


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what readers cannot derive from the address: of a file everything, else a build number that differs."""
    if record["url"].startswith("file:"):
        return {key: record[key] for key in ("name", "version", "build", "build_number", "subdir")}
    derived = re.search(r"(\d+)$", str(record["build"]).rpartition("_")[2])
    number = int(record.get("build_number", 0))
    return {} if derived and int(derived[1]) == number else {"build_number": number}


class _Dumper(yaml.SafeDumper):
    """Quotes hashes that other YAML readers would take for numbers, such as 12e45."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "'" if re.fullmatch(r"[0-9.]+(e[0-9]+)?", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


async def _solve(channel: str, specs: Sequence[str], platform: str, glibc: str) -> list[dict[str, Any]]:
    from rattler import BuildString, Channel, Gateway, GenericVirtualPackage, PackageName, Subdir, Version, solve

    virtual = [
        GenericVirtualPackage(PackageName(name), Version(version), BuildString(build))
        for name, version, build in (
            ("__unix", "0", "0"),
            ("__linux", "4.18", "0"),
            ("__glibc", glibc, "0"),
            ("__archspec", "1", platform.replace("linux-64", "x86_64").replace("linux-aarch64", "aarch64")),
        )
    ]
    with tempfile.TemporaryDirectory() as cache:
        try:
            records = await solve(
                [Channel(channel)],
                list(specs),
                platforms=[Subdir(platform), Subdir("noarch")],
                virtual_packages=virtual,
                gateway=Gateway(cache_dir=Path(cache)),
            )
        except Exception as error:  # the library's own errors have no common base
            raise LockError(f"{', '.join(specs)} cannot be solved for {platform} ({error}).") from error
    return [json.loads(record.to_json()) | {"url": str(record.url)} for record in records]


def _write_channel(records: Iterable[Mapping[str, Any]], directory: Path) -> dict[str, str]:
    """Write *records* as a channel's index into *directory*; return the addresses by ``<subdir>/<file>``."""
    subdirs: dict[str, dict[str, dict[str, Any]]] = {"noarch": {}}
    addresses = {}
    for record in records:
        subdir, file_name = urlsplit(record["url"]).path.rsplit("/", 2)[1:]
        addresses[f"{subdir}/{file_name}"] = record["url"]
        entry = {key: value for key, value in record.items() if key not in ("url", "fn", "channel")}
        subdirs.setdefault(subdir, {})[file_name] = entry
    for subdir, packages in subdirs.items():
        (directory / subdir).mkdir()
        (directory / subdir / "repodata.json").write_bytes(render_repodata(subdir, packages))
    return addresses


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Lock the conda packages of pixi.toml files without pixi.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--records", type=Path, help="JSON list of channel records with their addresses")
    source.add_argument("--channel", help="address of a channel")
    parser.add_argument("--lock-channel", help="address of the channel to write into the lock")
    parser.add_argument("projects", type=Path, nargs="+", metavar="PROJECT", help="directory with pixi.toml")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            addresses: dict[str, str] = {}
            channel, lock_channel = options.channel, options.lock_channel
            if options.records:
                records = json.loads(options.records.read_text(encoding="utf-8"))
                addresses = _write_channel(records, Path(temporary))
                channel = Path(temporary).as_uri()
                lock_channel = lock_channel or records[0]["url"].rsplit("/", 2)[0]
            for project in options.projects:
                count = lock_project(project, channel, addresses, lock_channel)
                print(f"{project / 'pixi.lock'}: {count} packages")
    except (AirgapError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # rattler's threads sometimes crash the interpreter while it exits, after all work is done.
    os._exit(status)
