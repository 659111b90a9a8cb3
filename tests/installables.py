"""Environments that can be installed without a network, for tests: the host's own Python and small wheels."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path

from wheels import make_wheel

from airgap.environment import Environment, PackageFile
from airgap.errors import UsageError
from airgap.hashing import sha256_of_bytes
from airgap.system_python import system_python_package
from airgap.targets import Target, host_target


def this_hosts_target() -> Target | None:
    """Return the target that this host is, with its own Python; None where there is no such thing."""
    try:
        target = host_target(platform.machine())
    except UsageError:
        return None
    return target if Path(f"/usr/bin/python{target.release.python}").exists() else None


def installable_wheel(name: str, version: str, *, command: str | None = None, size: int = 0) -> bytes:
    """Return a wheel that uv takes: with the files WHEEL and RECORD, a module of *size* bytes, and maybe a command."""
    information = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n\n\ndef main():\n    print({name!r}, VERSION)\n" + "#" * size,
        f"{information}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if command:
        files[f"{information}/entry_points.txt"] = f"[console_scripts]\n{command} = {name}:main\n"
    record = "".join(f"{path},,\n" for path in [*files, f"{information}/METADATA", f"{information}/RECORD"])
    return make_wheel(name, version, files=files | {f"{information}/RECORD": record})


@dataclass
class Node:
    """A machine's directories, in one directory of the test."""

    directory: Path
    target: Target
    wheels: dict[str, bytes] = field(default_factory=dict)

    @property
    def mirror(self) -> Path:
        return self.directory / "mirror"

    @property
    def root(self) -> Path:
        return self.directory / "envs"

    @property
    def cache(self) -> Path:
        return self.directory / "cache"

    @property
    def link(self) -> Path:
        return self.directory / "pixi-env"

    def describe(self, name: str, **versions: str) -> Path:
        """Put wheels into the mirror, describe an environment of them, and return the description's path."""
        file, python = system_python_package(self.target)
        packages = []
        contents = {python.path: file.content}
        for package, version in versions.items():
            content = installable_wheel(package, version, command=f"run-{package}", size=100_000)
            path = f"pypi/{package}-{version}-py3-none-any.whl"
            contents[path] = content
            packages.append(PackageFile(path, sha256_of_bytes(content), len(content), package, version))
        for path, content in contents.items():
            (self.mirror / path).parent.mkdir(parents=True, exist_ok=True)
            (self.mirror / path).write_bytes(content)
        release = self.target.release
        environment = Environment(
            name, self.target.name, "system", release.python, self.target.conda_platform, (python,), tuple(packages)
        )
        description = self.directory / f"{name}.{self.target.name}.json"
        description.write_text(environment.to_json())
        return description
