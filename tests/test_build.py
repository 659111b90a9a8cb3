from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from servers import FileServer, serve
from wheels import lock_line, make_wheel, simple_page

from airgap.build import Result, build
from airgap.cache import Cache
from airgap.environment import Environment
from airgap.errors import DownloadError, ResolutionError
from airgap.flow_pack import pack_flow
from airgap.hashing import sha256_of_bytes
from airgap.manifest import Manifest
from airgap.network import Network
from airgap.plan import BuildOptions
from airgap.progress import Progress
from airgap.resolve import Sources
from airgap.sources.ansible_collections import COLLECTIONS
from airgap.sources.apt import AptSource
from airgap.sources.interface import Download
from airgap.targets import Target, parse_target
from airgap.verify import verify

DEB = b"!<arch>\ndebian package"
WHEELS = {
    ("prefect", "3.9"): make_wheel("prefect", "3.9"),
    ("prefect", "3.10"): make_wheel("prefect", "3.10"),
    ("cowpy", "1.0"): make_wheel("cowpy", "1.0"),
    ("ansible_core", "2.19"): make_wheel("ansible_core", "2.19"),
    ("uv", "0.13"): make_wheel("uv", "0.13"),
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

    def __init__(self, url: str) -> None:
        self.url = url

    def resolve(self, packages: Sequence[str], target: Target) -> list[Download]:
        return [
            Download(
                f"{self.url}/pool/{name}.deb",
                f"mirror/apt/{target.name}/{name}_1_all.deb",
                sha256_of_bytes(DEB),
                len(DEB),
                "deb",
                name,
                "1",
                record={"Package": name, "Version": "1"},
            )
            for name in packages
        ]


@dataclass
class World:
    root: Path
    server: FileServer
    options: BuildOptions

    def lock(self, path: str, *names: tuple[str, str]) -> None:
        lines = "".join(lock_line(name.replace("_", "-"), version, WHEELS[name, version]) for name, version in names)
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(lines, encoding="utf-8")

    def build(self, progress: Progress | None = None, **changes: object) -> Result:
        options = replace(self.options, **changes)  # type: ignore[arg-type]
        network = Network(indexes=(f"{self.server.url}/simple",), timeout=5)
        sources = replace(Sources.of(options, network), apt=FakeApt(self.server.url))
        return build(options, network, progress or Progress(), lambda choice: None, sources)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    root = tmp_path / "checkout"
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
            cache=tmp_path / "cache",
            output=tmp_path / "out" / "bundle.tar.gz",
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


def read(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        member = tar.extractfile(f"pag-software-bundle/{name}")
        assert member is not None
        return member.read()


def test_a_bundle_is_whole_and_its_manifest_is_what_its_reader_expects(world: World) -> None:
    result = world.build(version="7.8")
    assert result.output is not None
    bundle = verify(result.output)
    assert bundle.receipt.digest == result.digest
    assert bundle.manifest == Manifest.from_json(read(result.output, "manifest.json").decode(), "manifest")
    assert bundle.manifest.bundle_version == "7.8"
    assert bundle.manifest.interpreter == "system"
    assert {(entry.name, entry.flow, entry.prefect_version) for entry in bundle.manifest.environments} == {
        ("prefect", None, "3.9"), ("controller", None, None), ("toolkit", None, None), ("demo", "flows/demo", "3.9"),
    }  # fmt: skip
    listed = {file.path: file for file in bundle.manifest.files}
    wheel = listed["mirror/pypi/cowpy-1.0-py3-none-any.whl"]
    assert (wheel.kind, wheel.name, wheel.version, wheel.licence) == ("wheel", "cowpy", "1.0", "MIT")
    assert "mirror/apt/debian-12-x86_64/rsync_1_all.deb" in listed
    assert "mirror/apt/debian-12-x86_64/Packages" in listed
    assert not [path for path in listed if path.startswith("mirror/pypi/ansible-12")]
    assert f"ansible/collections/ansible_collections/{COLLECTIONS[0].replace('.', '/')}/MANIFEST.json" in listed


def test_environments_are_described_file_by_file(world: World) -> None:
    output = world.build().output
    assert output is not None
    manifest = verify(output).manifest
    listed = {file.path: file for file in manifest.files}
    for entry in manifest.environments:
        environment = Environment.from_json(read(output, entry.path).decode(), entry.path)
        assert environment.digest == entry.digest
        for file in environment.files:
            assert listed[f"mirror/{file.path}"].sha256 == file.sha256
        expected = [] if entry.name == "toolkit" else ["python"]
        assert [file.name for file in environment.conda] == expected
    repodata = json.loads(read(output, "mirror/conda/linux-64/repodata.json"))
    (name,) = repodata["packages"]
    assert listed[f"mirror/conda/linux-64/{name}"].sha256 == repodata["packages"][name]["sha256"]


def test_a_second_build_fetches_nothing_and_gives_the_same_bytes(world: World) -> None:
    first, second = world.options.output, world.options.output.with_name("second.tar.gz")
    world.build()
    asked = len(world.server.requests)
    world.build(output=second)
    assert first.read_bytes() == second.read_bytes()
    assert len(world.server.requests) == asked


def test_a_build_elsewhere_gives_the_same_bytes(world: World, tmp_path: Path) -> None:
    world.build()
    world.build(output=tmp_path / "other.tar.gz", cache=tmp_path / "other-cache")
    assert world.options.output.read_bytes() == (tmp_path / "other.tar.gz").read_bytes()


def test_an_interrupted_build_leaves_no_output_and_goes_on(world: World) -> None:
    class Interrupting(Progress):
        def finished_file(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.build(Interrupting())
    assert not world.options.output.exists()
    kept = len([path for path in (world.options.cache / "sha256").rglob("*") if path.is_file()])
    assert kept > 0
    result = world.build()
    # Other threads may have finished a file after it was counted.
    assert len(result.missing) <= len(result.contents.downloads) - kept


def test_a_damaged_cache_entry_does_not_get_into_a_bundle(world: World) -> None:
    world.build()
    before = world.options.output.read_bytes()
    Cache(world.options.cache).path(sha256_of_bytes(WHEELS["cowpy", "1.0"])).write_bytes(b"evil")
    assert len(world.build().missing) == 1
    assert world.options.output.read_bytes() == before


def test_a_dry_run_fetches_and_writes_nothing(world: World) -> None:
    result = world.build(dry_run=True)
    assert result.output is None
    assert not world.options.output.exists()
    assert not (world.options.cache / "sha256").exists()
    assert sum(result.sizes.values()) == sum(len(WHEELS[key]) for key in WHEELS if key != ("prefect", "3.10")) + len(
        DEB
    )


def test_a_flow_with_a_newer_prefect_is_refused_before_anything_is_fetched(world: World) -> None:
    world.lock("flows/demo/requirements.txt", ("prefect", "3.10"))
    with pytest.raises(ResolutionError, match=r"flows/demo has Prefect 3\.10, which is newer than the server's 3\.9"):
        world.build()
    assert not (world.options.cache / "sha256").exists()


def test_a_file_whose_hash_is_not_in_the_lock_is_refused(world: World) -> None:
    world.options.output.parent.mkdir()
    world.options.output.write_bytes(b"the old bundle")
    world.server.files["/files/cowpy-1.0-py3-none-any.whl"] = make_wheel("cowpy", "1.0", files={"evil.py": "evil"})
    with pytest.raises(DownloadError, match=r"SHA-256 differs|longer than"):
        world.build()
    assert world.options.output.read_bytes() == b"the old bundle"


def test_several_targets_share_what_they_can(world: World) -> None:
    output = world.build(targets=(parse_target("debian-12"), parse_target("ubuntu-22.04"))).output
    assert output is not None
    manifest = verify(output).manifest
    assert {entry.target for entry in manifest.environments} == {"debian-12-x86_64", "ubuntu-22.04-x86_64"}
    assert len([file for file in manifest.files if file.path.endswith(".whl")]) == 4
    assert len({file.path for file in manifest.files if file.kind == "conda"}) == 2


def test_tokens_do_not_get_into_the_bundle(world: World) -> None:
    url = world.server.url
    world.server.url = url.replace("//", "//me:s3cr3t@")
    output = world.build().output
    assert output is not None
    assert b"s3cr3t" not in output.read_bytes()
    assert not any(b"s3cr3t" in path.read_bytes() for path in world.options.cache.rglob("*") if path.is_file())


def test_no_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(Exception, match="are needed: make room"):
        world.build()


def test_a_flow_is_packed_alone(world: World, tmp_path: Path) -> None:
    options = replace(world.options, output=tmp_path / "packed-env.tar")
    network = Network(indexes=(f"{world.server.url}/simple",), timeout=5)
    environment, choice = pack_flow(options, network, Progress(), lambda choice: None)
    assert choice.interpreter == "system"
    assert [file.name for file in environment.wheels] == ["prefect", "cowpy"]
    with tarfile.open(options.output) as tar:
        names = tar.getnames()
    assert "pypi/cowpy-1.0-py3-none-any.whl" in names
    assert "pixi-pack.json" in names
