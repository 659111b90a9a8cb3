"""Removing what is not used any more: exactly that, with the figures announced, and in step with the indexes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sites import deploy, tree, wheel, write_bundle

from airgap.errors import InstallationError
from airgap.index_formats import parse_project
from airgap.populate import Contents, finish, populate
from airgap.prune import Figures, find_unused, prune
from airgap.site import Site

BIG = 50_000


def _wheel(name: str) -> dict[str, bytes]:
    return wheel(name, name.encode() * BIG)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A controller with five bundles, each with a wheel of its own, whose unpacked directories are gone."""
    found = Site(tmp_path / "pag")
    for number in range(5):
        packages = {**_wheel("shared"), **_wheel(f"w{number}")}
        bundle = write_bundle(tmp_path / "bundle", packages, {f"flows/{number}": b"x" * BIG}, version=str(number))
        populate(bundle, found, Contents({}))
        finish(bundle, found, keep=9)
        shutil.rmtree(bundle)
    for link, name in (("toolkit/current", "toolkit/0123456789ab"), ("controller-env", "envs/controller-0123456789ab")):
        for directory in (found.root / name, (found.root / name).with_name(Path(name).name.replace("0", "f"))):
            directory.mkdir(parents=True)
            (directory / "program").write_bytes(b"p" * 1000)
        (found.root / link).symlink_to(found.root / name)
    return found


def test_the_last_bundles_stay(site: Site) -> None:
    unused = find_unused(site, 3)
    figures = unused.figures()
    before = _size(site.root)
    prune(site, unused)
    assert {path.name.partition("-")[0] for path in site.package_files()} == {"shared", "w2", "w3", "w4"}
    assert [kept.manifest.bundle_version for kept in site.kept()] == ["2", "3", "4"]
    assert figures.held == 0
    # The indexes shrink as well.
    assert before - figures.freed - 1000 < _size(site.root) <= before - figures.freed
    for manifest in site.manifests():
        assert site.lacking(manifest.all_files) == []


def test_indexes_lose_what_goes(site: Site) -> None:
    prune(site, find_unused(site, 1))
    pages = site.mirror.glob("pypi/simple/*/index.html")
    names = {name for page in pages for name in parse_project(page.read_text())}
    assert names == {path.name for path in site.package_files()}


def test_old_toolkits_and_environments_of_the_controller_go(site: Site) -> None:
    prune(site, find_unused(site))
    assert {path.name for path in (site.root / "toolkit").iterdir()} == {"current", "0123456789ab"}
    assert {path.name for path in (site.root / "envs").iterdir()} == {"controller-0123456789ab"}


def test_the_cache_goes_with_an_old_environment_and_what_is_in_use_keeps_its_files(site: Site) -> None:
    (site.root / "cache").mkdir()
    for name in ("controller-0123456789ab", "controller-f123456789ab"):
        (site.root / "cache" / name).hardlink_to(site.root / "envs" / name / "program")
    unused = find_unused(site, 5)
    # The old toolkit's program and the old environment's; the one in use shares its own with the cache.
    assert unused.figures() == Figures(files=4, freed=2000, held=1000)
    prune(site, unused)
    assert not (site.root / "cache").exists()
    assert (site.root / "envs/controller-0123456789ab/program").is_file()
    (site.root / "cache").mkdir()
    assert find_unused(site, 5).paths == ()


def test_what_deployed_flows_use_stays(site: Site) -> None:
    deploy(site.root, "report", {**_wheel("w0"), **_wheel("pack")})
    before = tree(site.root / "flows")
    prune(site, find_unused(site, 1))
    assert {path.name.partition("-")[0] for path in site.package_files()} == {"shared", "w0", "w4", "pack"}
    assert len(list(site.root.glob("environments/report-*.json"))) == 1
    assert tree(site.root / "flows") == before
    shutil.rmtree(site.root / "flows")
    prune(site, find_unused(site, 1))
    assert {path.name.partition("-")[0] for path in site.package_files()} == {"shared", "w4"}
    assert not list(site.root.glob("environments/report-*.json"))


def test_nothing_to_do_the_second_time(site: Site) -> None:
    prune(site, find_unused(site))
    before = tree(site.root)
    again = find_unused(site)
    assert again.paths == ()
    assert again.figures() == Figures(0, 0, 0)
    prune(site, again)
    assert tree(site.root) == before


def test_finding_changes_nothing(site: Site) -> None:
    before = tree(site.root)
    find_unused(site, 1).figures()
    assert tree(site.root) == before


def test_what_an_unpacked_bundle_shares_is_not_counted_as_free(site: Site, tmp_path: Path) -> None:
    name = next(iter(_wheel("w0")))
    (tmp_path / "unpacked.whl").hardlink_to(site.root / name)
    alone = find_unused(site, 3).figures()
    assert alone.held == len(_wheel("w0")[name])


def test_interrupted_in_the_middle_it_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = find_unused(site, 3)

    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prune(site, expected)
    monkeypatch.undo()
    prune(site, find_unused(site, 3))
    assert find_unused(site, 3).paths == ()
    assert not list(site.root.glob("*/.*.removed"))


def test_a_record_that_cannot_be_read_stops_everything(site: Site) -> None:
    deploy(site.root, "report", _wheel("w0"))
    (site.root / "flows/report/daily/record.json").write_text("{")
    before = tree(site.root)
    with pytest.raises(InstallationError, match="is no record of a flow"):
        find_unused(site)
    assert tree(site.root) == before


def test_at_least_the_installed_bundle_is_kept(site: Site, tmp_path: Path) -> None:
    with pytest.raises(InstallationError, match="keep at least 1"):
        find_unused(site, 0)
    with pytest.raises(InstallationError, match="There is no bundle"):
        find_unused(Site(tmp_path / "none"))


def _size(root: Path) -> int:
    inodes = {path.lstat().st_ino: path.lstat().st_size for path in root.rglob("*") if path.is_file()}
    return sum(inodes.values())
