from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bundles import allow, make_key
from small_world import DEB, WHEELS, World, small_world
from wheels import lock_line, make_wheel, simple_page

from airgap.build import _check_room
from airgap.cache import Cache
from airgap.environment import Environment
from airgap.errors import AirgapError, DownloadError, ResolutionError, SignatureError
from airgap.hashing import sha256_of_bytes
from airgap.manifest import PACKAGE_KINDS, Manifest
from airgap.progress import Progress
from airgap.sources.ansible_collections import COLLECTIONS
from airgap.sources.conda_extra import CondaExtra
from airgap.sources.interface import Download
from airgap.system_python import system_python_package
from airgap.targets import parse_target
from airgap.verify import verify


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with small_world(tmp_path) as world:
        yield world


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


def test_the_bill_of_materials_has_every_package_and_its_users(world: World) -> None:
    output = world.build().output
    assert output is not None
    bundle = verify(output)
    content = read(output, "sbom.cdx.json")
    assert bundle.receipt.sbom == sha256_of_bytes(content)
    document = json.loads(content)
    hashes = {c["bom-ref"]: c["hashes"][0]["content"] for c in document["components"] if "hashes" in c}
    packages = {file.path: file.sha256 for file in bundle.manifest.files if file.kind in PACKAGE_KINDS}
    assert hashes == packages
    uses = {entry["ref"]: entry.get("dependsOn", []) for entry in document["dependencies"]}
    assert "mirror/pypi/cowpy-1.0-py3-none-any.whl" in uses["environments/demo.debian-12-x86_64.json"]
    assert uses["debian-12-x86_64"] == ["mirror/apt/debian-12-x86_64/rsync_1_all.deb"]


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


class Noting(Progress):
    def __init__(self) -> None:
        self.steps: list[str] = []

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        self.steps.append(text)
        yield


@pytest.mark.parametrize("wheel", [("cowpy", "1.0"), ("ansible", "12.0"), ("uv", "0.13")])
@pytest.mark.parametrize("same_size", [True, False])
def test_a_damaged_cache_entry_does_not_get_into_a_bundle(
    world: World, wheel: tuple[str, str], same_size: bool
) -> None:
    world.build()
    before = world.options.output.read_bytes()
    content = WHEELS[wheel]
    middle = len(content) // 2
    damaged = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :] if same_size else b"evil"
    Cache(world.options.cache).path(sha256_of_bytes(content)).write_bytes(damaged)
    progress = Noting()
    assert [download.sha256 for download in world.build(progress).missing] == [sha256_of_bytes(content)]
    assert any("damaged in the cache" in step and wheel[0] in step for step in progress.steps)
    assert world.options.output.read_bytes() == before


def test_all_damaged_cache_entries_are_fetched_again_at_once(world: World) -> None:
    world.build(split_size=1024**2)
    before = {path.name: path.read_bytes() for path in world.options.output.parent.iterdir()}
    for name in (("cowpy", "1.0"), ("uv", "0.13")):
        Cache(world.options.cache).path(sha256_of_bytes(WHEELS[name])).write_bytes(bytes(len(WHEELS[name])))
    assert len(world.build(split_size=1024**2).missing) == 2
    assert {path.name: path.read_bytes() for path in world.options.output.parent.iterdir()} == before


def test_an_error_that_is_not_the_caches_is_not_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def fail(*_arguments: object) -> int:
        tries.append(1)
        raise ResolutionError("something else")

    monkeypatch.setattr("airgap.build.write_bundle", fail)
    with pytest.raises(ResolutionError, match="something else"):
        world.build()
    assert len(tries) == 1


def test_a_bundle_in_volumes_and_signed_is_the_same_bundle(world: World, tmp_path: Path) -> None:
    plain = world.build()
    key = make_key(tmp_path / "alice")
    result = world.build(split_size=1024**2, sign_key=key)
    assert (result.digest, result.volumes) == (plain.digest, 3)
    assert result.output == world.options.output.with_name("bundle.tar.gz.sha256")
    assert result.size == sum(path.stat().st_size for path in result.output.parent.glob("bundle.tar.gz.0*"))
    assert (result.output.parent / "install-pag-controller.sh").read_text() == "install-pag-controller.sh"
    receipt = verify(result.output, signers=allow(tmp_path / "signers", key)).receipt
    assert receipt.signer.startswith("alice@site (ED25519 ")
    assert receipt.digest == plain.digest


def test_a_key_that_is_not_there_is_told_before_anything_is_fetched(world: World, tmp_path: Path) -> None:
    with pytest.raises(SignatureError, match="is not there"):
        world.build(sign_key=tmp_path / "nothing")
    assert not world.server.requests


def test_room_for_cache_and_output_is_added_where_they_share_a_disk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = Download("", "mirror/pypi/a.whl", "0" * 64, 1_000_000, "wheel", "a", "1")
    cache = Cache(world.options.cache)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1_500_000}))
    with pytest.raises(AirgapError, match=r"cache and .*out: 1\.5 MB are free there and 2\.0 MB are needed: make room"):
        _check_room(world.options, [download], {download.sha256: 1_000_000}, cache)
    # What a killed build left is as good as room.
    world.options.output.parent.mkdir()
    for name in (".bundle.tar.gz.part", ".bundle.tar.gz.part.1"):
        (world.options.output.parent / name).write_bytes(os.urandom(300_000))
    _check_room(world.options, [download], {download.sha256: 1_000_000}, cache)


def test_a_dry_run_fetches_and_writes_nothing(world: World) -> None:
    result = world.build(dry_run=True)
    assert result.output is None
    assert not world.options.output.exists()
    assert not (world.options.cache / "sha256").exists()
    locked = [content for key, content in WHEELS.items() if key not in (("prefect", "3.10"), ("cowpy", "1.1"))]
    assert sum(result.sizes.values()) == sum(map(len, locked)) + len(DEB)


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


def test_extra_packages_are_in_the_mirror_its_index_and_the_manifest(world: World) -> None:
    world.lock("tools.txt", ("cowpy", "1.1"))
    file, package = system_python_package(parse_target("debian-13"))
    name = file.path.rpartition("/")[2]
    world.server.files[f"/forge/linux-64/{name}"] = file.content
    extra = CondaExtra(url=f"{world.server.url}/forge/linux-64/{name}", sha256=package.sha256)
    output = world.build(
        extra_wheels=(world.root / "tools.txt",), extra_conda=(extra,), extra_debs=("htop",), version="1"
    ).output
    assert output is not None
    listed = {listed.path: listed for listed in verify(output).manifest.files}
    assert listed["mirror/pypi/cowpy-1.1-py3-none-any.whl"].kind == "wheel"
    assert listed[f"mirror/conda/linux-64/{name}"].sha256 == package.sha256
    assert listed["mirror/apt/debian-12-x86_64/htop_1_all.deb"].name == "htop"
    assert b"cowpy-1.1-" in read(output, "mirror/pypi/simple/cowpy/index.html")
    assert b"Package: htop" in read(output, "mirror/apt/debian-12-x86_64/Packages")
    record = json.loads(read(output, "mirror/conda/linux-64/repodata.json"))["packages"][name]
    assert (record["name"], record["sha256"]) == ("python", package.sha256)
    bill = read(output, "sbom.cdx.json")
    assert b"pkg:pypi/cowpy@1.1" in bill
    assert b"pkg:deb/debian/htop@1" in bill


def test_an_extra_wheel_of_another_content_under_the_same_name_is_refused(world: World) -> None:
    wheel = make_wheel("cowpy", "1.0", files={"cowpy.py": "other"})
    (world.root / "tools.txt").write_text(lock_line("cowpy", "1.0", wheel), encoding="utf-8")
    page = simple_page({"cowpy-1.0-py3-none-any.whl": wheel})
    # At an address of its own, so that it can be fetched before the two are seen to be different.
    world.server.files["/simple/cowpy/"] += page.replace(b"../../files/", b"../../other/")
    world.server.files["/other/cowpy-1.0-py3-none-any.whl"] = wheel
    with pytest.raises(ResolutionError, match=r"different files with the name cowpy-1\.0"):
        world.build(extra_wheels=(world.root / "tools.txt",))
