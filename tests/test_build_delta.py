"""Bundles with only what a site lacks."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bundles import unpack
from small_world import WHEELS, World, small_world

from airgap.delta import Base, read_base
from airgap.errors import UsageError
from airgap.hashing import sha256_of_bytes
from airgap.have import Have, HaveNodes, HavePackage, HaveSystem
from airgap.have_writer import describe
from airgap.manifest import PACKAGE_KINDS, Manifest
from airgap.populate import Contents, check_reliance, finish, populate
from airgap.site import Site
from airgap.targets import parse_target
from airgap.verify import verify


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with small_world(tmp_path) as world:
        yield world


def _packages_index(archive: Path) -> str:
    with tarfile.open(archive) as tar:
        member = tar.extractfile("pag-software-bundle/mirror/apt/debian-12-x86_64/Packages")
        assert member is not None
        return member.read().decode()


def state_of(manifest: Manifest, *nodes: HaveNodes) -> Base:
    """Return what a site has on which just the bundle with *manifest* was installed."""
    packages = [file for file in manifest.all_files if file.kind in PACKAGE_KINDS]
    have = Have(
        created_by="tests",
        prefect_version="3.9",
        targets=tuple(target.name for target in manifest.targets),
        packages=tuple(HavePackage(file.path, file.sha256, file.size, file.licence) for file in packages),
        contents=frozenset(file.sha256 for file in manifest.all_files if file.kind not in PACKAGE_KINDS),
        systems=(HaveSystem("debian-12-x86_64", {"acl:amd64": "1"}, nodes),) if nodes else (),
    )
    text = have.to_json()
    return Base(Have.from_json(text, "have.json"), sha256_of_bytes(text.encode()))


def test_a_delta_carries_what_changed_and_relies_on_the_rest(world: World, tmp_path: Path) -> None:
    base = state_of(world.build().manifest)
    world.lock("flows/demo/requirements.txt", ("prefect", "3.9"), ("cowpy", "1.1"))
    # A bootstrapper that has seen nothing before: it fetches what travels, and what collections are taken from.
    delta = world.build(base=base, cache=tmp_path / "empty")
    full = world.build(output=tmp_path / "full.tar.gz").manifest
    assert {download.display_name for download in delta.missing} == {
        "cowpy-1.1-py3-none-any.whl", "ansible-12.0-py3-none-any.whl",
    }  # fmt: skip
    assert delta.output is not None
    manifest = verify(delta.output).manifest
    assert manifest.base == base.digest
    assert {file.path for file in manifest.files} == {
        "mirror/pypi/cowpy-1.1-py3-none-any.whl",
        "mirror/pypi/simple/cowpy/index.html",
        "environments/demo.debian-12-x86_64.json",
        "flows/demo/requirements.txt",
        "README.md",
        "airgap/__init__.py",
        "install-pag-controller.sh",
        "sbom.cdx.json",
    }
    # What it describes is what a whole bundle describes; only the bill of materials says that some of it stayed behind.
    assert manifest.environments == full.environments

    def known(manifest: Manifest) -> dict[str, object]:
        return {file.path: file for file in manifest.all_files if file.path != "sbom.cdx.json"}

    assert known(manifest) == known(full)
    assert delta.output.stat().st_size < len(WHEELS["cowpy", "1.1"]) + 256 * 1024


def test_a_delta_of_what_is_there_carries_no_packages(world: World) -> None:
    base = state_of(world.build().manifest)
    files = world.build(base=base).manifest.files
    assert {file.kind for file in files} == {"software", "document"}


def test_what_a_site_has_under_the_same_name_with_other_content_travels(world: World) -> None:
    manifest = world.build().manifest
    changed = tuple(replace(file, sha256="0" * 64) if "cowpy-1.0" in file.path else file for file in manifest.files)
    delta = world.build(base=state_of(replace(manifest, files=changed)))
    assert [file.path for file in delta.manifest.files if file.kind == "wheel"] == [
        "mirror/pypi/cowpy-1.0-py3-none-any.whl"
    ]


def test_the_same_state_gives_the_same_delta_wherever_it_is_built(world: World, tmp_path: Path) -> None:
    base = state_of(world.build().manifest)
    world.lock("flows/demo/requirements.txt", ("prefect", "3.9"), ("cowpy", "1.1"))
    # One cache has the packages that are relied on, and remembers things about them; the other one never saw them.
    world.build(base=base)
    world.build(base=base, output=tmp_path / "other.tar.gz", cache=tmp_path / "empty")
    assert world.options.output.read_bytes() == (tmp_path / "other.tar.gz").read_bytes()


def test_a_dry_run_of_a_delta_says_what_would_travel(world: World) -> None:
    base = state_of(world.build().manifest)
    world.lock("flows/demo/requirements.txt", ("prefect", "3.9"), ("cowpy", "1.1"))
    before = world.options.output.read_bytes()
    result = world.build(base=base, dry_run=True)
    assert [file.path for file in result.manifest.files if file.kind in PACKAGE_KINDS] == [
        "mirror/pypi/cowpy-1.1-py3-none-any.whl"
    ]
    assert {download.name for download in result.missing} == {"cowpy"}
    assert result.complete
    assert world.options.output.read_bytes() == before
    assert {(file.path, file.sha256) for file in result.manifest.files if file.path != "sbom.cdx.json"} == {
        (file.path, file.sha256) for file in world.build(base=base).manifest.files if file.path != "sbom.cdx.json"
    }


def test_a_dry_run_without_the_collections_wheel_says_that_it_is_not_complete(world: World) -> None:
    assert not world.build(dry_run=True).complete


def test_security_updates_of_the_nodes_travel_beside_the_packages_that_pag_needs(world: World) -> None:
    manifest = world.build().manifest
    base = state_of(manifest, HaveNodes(2, {"rsync:all": "1"}), HaveNodes(1, {}))
    delta = world.build(base=base, system_updates=True)
    assert [file.path for file in delta.manifest.files if file.kind == "deb"] == [
        "mirror/apt/debian-12-x86_64/rsync_1+deb12u1_all.deb"
    ]
    assert delta.output is not None
    packages = _packages_index(delta.output)
    assert "Version: 1\n" in packages
    assert "Version: 1+deb12u1\n" in packages
    assert "rsync_1+deb12u1_all.deb" not in {file.path for file in world.build(base=base).manifest.files}


def test_security_updates_of_unknown_nodes_are_refused_before_anything_happens(world: World, tmp_path: Path) -> None:
    manifest = world.build(cache=tmp_path / "other").manifest
    asked = len(world.server.requests)
    with pytest.raises(UsageError, match=r"^--system-updates needs to know the nodes: .* give it with --since\.$"):
        world.build(system_updates=True)
    with pytest.raises(UsageError, match=r"^have\.json tells of no nodes with debian-12-x86_64"):
        world.build(base=state_of(manifest), system_updates=True)
    with pytest.raises(UsageError, match=r"^have\.json tells of no nodes with debian-13-x86_64"):
        world.build(base=state_of(manifest, HaveNodes(1)), targets=(parse_target("debian-13"),), system_updates=True)
    assert len(world.server.requests) == asked


def test_a_site_takes_a_delta_that_was_built_from_its_own_have_json(world: World, tmp_path: Path) -> None:
    site, nothing = Site(tmp_path / "site"), Contents({})
    world.build()
    bundle = unpack(world.options.output, tmp_path)
    populate(bundle, site, nothing)
    finish(bundle, site)
    have = tmp_path / "have.json"
    have.write_text(describe(site, []).to_json(), encoding="utf-8")

    world.lock("flows/demo/requirements.txt", ("prefect", "3.9"), ("cowpy", "1.1"))
    (world.root / "ansible/main.yml").unlink()
    (world.root / "ansible/other.yml").write_text("new", encoding="utf-8")
    delta = world.build(base=read_base(have))
    assert [file.path for file in delta.manifest.files if file.kind in PACKAGE_KINDS] == [
        "mirror/pypi/cowpy-1.1-py3-none-any.whl"
    ]
    # As an operator does: over the first one.
    unpack(world.options.output, tmp_path)
    check_reliance(delta.manifest, site, nothing)
    populate(bundle, site, nothing)
    finish(bundle, site)
    assert sorted(path.name for path in site.mirror.glob("pypi/cowpy*")) == [
        "cowpy-1.0-py3-none-any.whl", "cowpy-1.1-py3-none-any.whl",
    ]  # fmt: skip
    assert (site.mirror / "pypi/simple/cowpy/index.html").read_text(encoding="utf-8").count("sha256=") == 2
    assert sorted(path.name for path in (bundle / "ansible").glob("*.yml")) == ["other.yml"]
    assert verify(bundle).manifest.base == delta.manifest.base
    # The site has now all that the delta's state is made of.
    assert site.lacking(delta.manifest.all_files) == []
