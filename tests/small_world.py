"""A small checkout and a server that has what it locks, for tests of whole builds.

``python small_world.py CHECKOUT URL [build-bundle.py's arguments...]`` is the builder's command line for it, where only
apt is replaced.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from servers import FileServer, serve
from wheels import lock_line, make_wheel, simple_page

from airgap.build import Result, build
from airgap.choosing import choose
from airgap.hashing import sha256_of_bytes
from airgap.network import Network
from airgap.plan import BuildOptions
from airgap.progress import Progress
from airgap.repeat import Repeated, repeat
from airgap.resolve import Sources
from airgap.sources.ansible_collections import COLLECTIONS
from airgap.sources.apt import Answer, AptSource
from airgap.sources.apt_releases import Releases
from airgap.sources.interface import Download
from airgap.targets import Target, parse_target

# Where the tests' own bytecode is, which saves a process from compiling everything.
BYTECODE = sys.pycache_prefix
DEB = b"!<arch>\ndebian package"
WHEELS = {
    ("prefect", "3.9"): make_wheel("prefect", "3.9"),
    ("prefect", "3.10"): make_wheel("prefect", "3.10"),
    ("cowpy", "1.0"): make_wheel("cowpy", "1.0"),
    ("cowpy", "1.1"): make_wheel("cowpy", "1.1", files={"cowpy.py": "moo" * 10_000}),
    ("ansible_core", "2.19"): make_wheel("ansible_core", "2.19"),
    # Larger than the smallest volume.
    ("uv", "0.13"): make_wheel("uv", "0.13", files={"uv.py": "#" * 3_000_000}),
    ("ansible", "12.0"): make_wheel(
        "ansible",
        "12.0",
        files={
            f"ansible_collections/{name.replace('.', '/')}/MANIFEST.json": '{"collection_info": {"version": "1.0"}}'
            for name in COLLECTIONS
        },
    ),
}


class FakeApt(AptSource):
    """apt's answers, without apt."""

    def __init__(self, url: str, current: bool = True) -> None:
        self.url = url
        self.current = current

    def ahead(self, packages: Sequence[str], targets: Sequence[Target]) -> AbstractContextManager[None]:
        return nullcontext()

    def remembered(self, packages: Sequence[str], target: Target) -> Answer | None:
        """Return its answer, which is the same each time."""
        return Answer(tuple(self.resolve(packages, target)), Releases((), None))

    def is_current(self, answer: Answer, target: Target) -> bool:
        return self.current

    def resolve(self, packages: Sequence[str], target: Target) -> list[Download]:
        return [self._deb(name, "1", target) for name in packages]

    def security_updates(self, statuses: Iterable[Mapping[str, str]], target: Target) -> list[Download]:
        return [self._deb("rsync", "1+deb12u1", target) for status in statuses if status.get("rsync:all") == "1"]

    def _deb(self, name: str, version: str, target: Target) -> Download:
        return Download(
            f"{self.url}/pool/{name}.deb",
            f"mirror/apt/{target.name}/{name}_{version}_all.deb",
            sha256_of_bytes(DEB),
            len(DEB),
            "deb",
            name,
            version,
            record={"Package": name, "Version": version},
        )


@dataclass
class World:
    root: Path
    server: FileServer
    options: BuildOptions

    def lock(self, path: str, *names: tuple[str, str]) -> None:
        lines = "".join(lock_line(name.replace("_", "-"), version, WHEELS[name, version]) for name, version in names)
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(lines, encoding="utf-8")

    @property
    def network(self) -> Network:
        return Network(indexes=(f"{self.server.url}/simple",), timeout=5)

    def build(self, progress: Progress | None = None, apt: AptSource | None = None, **changes: object) -> Result:
        options = replace(self.options, **changes)  # type: ignore[arg-type]
        sources = replace(Sources.of(options, self.network), apt=apt or FakeApt(self.server.url))
        return build(options, self.network, progress or Progress(), lambda choice: None, sources)

    def repeat(self, apt: AptSource | None = None, **changes: object) -> Repeated | None:
        options = replace(self.options, **changes)  # type: ignore[arg-type]
        choice = choose(options, self.network)
        return repeat(options, choice, self.network, Progress(), lambda choice: None, apt or FakeApt(self.server.url))


@contextmanager
def small_world(directory: Path) -> Iterator[World]:
    """Make a checkout in *directory*, and serve what its locks name; options write to ``out/`` and ``cache/``."""
    root = directory / "checkout"
    for name in (
        "README.md",
        "install-pag-controller.sh",
        "ansible/main.yml",
        "airgap/__init__.py",
        "flows/demo/main.py",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name, encoding="utf-8")
    files: dict[str, bytes] = {}
    for (name, version), content in WHEELS.items():
        files[f"/files/{name}-{version}-py3-none-any.whl"] = content
    for project in {name for name, _ in WHEELS}:
        offered = {f"{n}-{v}-py3-none-any.whl": content for (n, v), content in WHEELS.items() if n == project}
        files[f"/simple/{project.replace('_', '-')}/"] = simple_page(offered)
    files["/pool/rsync.deb"] = DEB
    with serve(files=files) as server:
        options = BuildOptions(
            root=root,
            cache=directory / "cache",
            output=directory / "out" / "bundle.tar.gz",
            targets=(parse_target("debian-12"),),
            python="system",
            flows=(root / "flows/demo",),
        )
        made = World(root, server, options)
        made.lock("requirements/prefect.txt", ("prefect", "3.9"))
        made.lock("requirements/controller.txt", ("ansible_core", "2.19"))
        made.lock("requirements/toolkit.txt", ("uv", "0.13"))
        made.lock("requirements/collections.txt", ("ansible", "12.0"))
        made.lock("flows/demo/requirements.txt", ("prefect", "3.9"), ("cowpy", "1.0"))
        (root / "requirements/apt.txt").write_text("rsync\n", encoding="utf-8")
        yield made


def command(world: World, root: Path, output: Path, cache: Path, *options: str | Path) -> list[str | Path]:
    """Return the command that builds the checkout at *root* in a process of its own."""
    return [
        sys.executable, __file__, root, world.server.url,
        "--python", "system", "--target", "debian-12", "--output", output, "--cache", cache, *options,
    ]  # fmt: skip


def environment(world: World, **variables: str) -> dict[str, str]:
    """Return the variables of such a process: pip's index is the world's."""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    index = f"{world.server.url}/simple"
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "PIP_INDEX_URL": index}
    if BYTECODE is not None:
        own["PYTHONPYCACHEPREFIX"] = BYTECODE
    return {**own, **variables}


def main(checkout: str, url: str, *arguments: str) -> int:
    """Build as the command line does."""
    from airgap import build, cli, cli_build, resolve

    cli_build._ROOT = Path(checkout)
    build.apt_source = resolve.apt_source = cli_build.apt_source = lambda *_arguments: FakeApt(url)
    return cli.main(arguments)


if __name__ == "__main__":
    # As the command line itself ends.
    sys.exit(main(*sys.argv[1:]))
