"""Installing a bundle's files on the controller: all of them, once, as they were verified, in any order of bundles."""

from __future__ import annotations

from pathlib import Path

import pytest
from sites import conda, deb, deploy, digest, tree, wheel, write_bundle

from airgap.errors import InstallationError
from airgap.populate import Contents, check_conflicts, check_reliance, check_room, finish, populate
from airgap.site import Site, read_manifest

NOTHING = Contents({})
PACKAGES = {**wheel("a"), **conda("c"), **deb("d")}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", PACKAGES, {"README.md": b"read me", "airgap/old.py": b""})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "opt" / "pag")


def _install(bundle: Path, site: Site, contents: Contents = NOTHING) -> int:
    manifest = read_manifest(bundle)
    check_reliance(manifest, site, contents)
    check_conflicts(manifest, site)
    return populate(bundle, site, contents) + finish(bundle, site)


def test_packages_are_linked_and_everything_else_is_copied(bundle: Path, site: Site) -> None:
    _install(bundle, site)
    for file in read_manifest(bundle).files:
        kept = site.place_of(file)
        assert digest(kept.read_bytes()) == file.sha256
        assert kept.samefile(bundle / file.path) == (file.kind in ("wheel", "conda", "deb")), file.path
    assert (site.root / "airgap/old.py").is_file()


def test_a_second_run_changes_nothing(bundle: Path, site: Site) -> None:
    assert _install(bundle, site) > 0
    before = tree(site.root)
    assert _install(bundle, site) == 0
    assert tree(site.root) == before


def test_an_operator_who_edits_a_playbook_does_not_edit_what_is_kept(bundle: Path, site: Site) -> None:
    _install(bundle, site)
    with (bundle / "ansible/main.yml").open("ab") as stream:
        stream.write(b"# mine\n")
    assert site.stored(digest(b"---\n")).read_bytes() == b"---\n"


def test_files_are_copied_where_they_cannot_be_linked(
    bundle: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    _install(bundle, site)
    path = next(iter(wheel("a")))
    assert (site.root / path).read_bytes() == PACKAGES[path]
    assert not (site.root / path).samefile(bundle / path)


def test_a_package_that_comes_again_is_not_on_the_disk_twice(bundle: Path, site: Site, tmp_path: Path) -> None:
    _install(bundle, site)
    again = write_bundle(tmp_path / "again", {**PACKAGES, **wheel("b")}, version="2")
    _install(again, site)
    for path in PACKAGES:
        assert (again / path).samefile(site.root / path)


def test_a_file_changed_after_it_was_verified_is_refused(bundle: Path, site: Site) -> None:
    path = next(iter(wheel("a")))
    (bundle / path).write_bytes(b"swapped")
    with pytest.raises(InstallationError, match=r"a-1-py3-none-any\.whl was changed while it was installed"):
        _install(bundle, site)
    assert not (site.root / path).exists()


def test_a_damaged_file_is_replaced_without_writing_into_the_bundle(bundle: Path, site: Site) -> None:
    _install(bundle, site)
    path = next(iter(wheel("a")))
    (site.root / path).unlink()
    (site.root / path).write_bytes(b"X wheel")
    assert _install(bundle, site) == 1
    assert (site.root / path).read_bytes() == PACKAGES[path]


def test_modules_of_another_bundle_do_not_stay(bundle: Path, site: Site, tmp_path: Path) -> None:
    _install(bundle, site)
    later = write_bundle(tmp_path / "later", PACKAGES, {"airgap/new/__init__.py": b""}, version="2")
    _install(later, site)
    software = {path.relative_to(site.root).as_posix() for path in (site.root / "airgap").rglob("*.py")}
    assert software == {"airgap/__init__.py", "airgap/new/__init__.py"}
    assert (bundle / "airgap/old.py").is_file()


# --- Deltas


@pytest.fixture
def delta(tmp_path: Path) -> Path:
    others = {"README.md": b"read me", "ansible/roles/x/tasks/main.yml": b"--- #new\n", "airgap/old.py": b""}
    return write_bundle(
        tmp_path / "delta",
        {**PACKAGES, **wheel("b")},
        others,
        version="2",
        left_out=[*PACKAGES, "README.md", "ansible/main.yml"],
    )


def test_a_delta_is_merged_and_its_directory_completed(bundle: Path, delta: Path, site: Site, tmp_path: Path) -> None:
    _install(bundle, site)
    _install(delta, site)
    assert (delta / "ansible/main.yml").read_bytes() == b"---\n"
    assert (delta / "README.md").read_bytes() == b"read me"
    assert not (delta / next(iter(wheel("a")))).exists()
    # As if everything had travelled.
    whole = Site(tmp_path / "whole")
    others = {"README.md": b"read me", "ansible/roles/x/tasks/main.yml": b"--- #new\n", "airgap/old.py": b""}
    _install(write_bundle(tmp_path / "full", {**PACKAGES, **wheel("b")}, others, version="2"), whole)
    assert tree(site.mirror) == tree(whole.mirror)


def test_a_delta_that_relies_on_missing_files_is_refused_with_their_sizes(delta: Path, site: Site) -> None:
    with pytest.raises(InstallationError) as caught:
        _install(delta, site)
    sentence, *lines = str(caught.value).splitlines()
    assert "relies on 5 files" in sentence
    assert "--with" in sentence
    assert sorted(line.split() for line in lines) == sorted(
        [str(len(content)), path]
        for path, content in {**PACKAGES, "README.md": b"read me", "ansible/main.yml": b"---\n"}.items()
    )
    assert not site.root.exists()


def test_a_damaged_file_is_none_to_rely_on(bundle: Path, delta: Path, site: Site) -> None:
    _install(bundle, site)
    path = next(iter(wheel("a")))
    (site.root / path).unlink()
    (site.root / path).write_bytes(b"the wheel X")
    with pytest.raises(InstallationError, match="relies on 1 files"):
        _install(delta, site)


def test_another_unpacked_bundle_can_have_what_a_delta_relies_on(
    bundle: Path, delta: Path, site: Site, tmp_path: Path
) -> None:
    _install(delta, site, Contents.of([bundle]))
    assert site.lacking(read_manifest(delta).all_files) == []
    assert (delta / "ansible/main.yml").read_bytes() == b"---\n"
    assert (site.root / next(iter(wheel("a")))).samefile(bundle / next(iter(wheel("a"))))


def test_deltas_in_any_order_give_the_same_mirror(bundle: Path, tmp_path: Path) -> None:
    deltas = [
        write_bundle(tmp_path / name, {**PACKAGES, **wheel(name)}, version=name, left_out=PACKAGES)
        for name in ("x", "y", "z")
    ]
    mirrors = []
    for number, order in enumerate((deltas, deltas[::-1])):
        site = Site(tmp_path / f"site-{number}")
        for unpacked in (bundle, *order):
            _install(unpacked, site)
        mirrors.append(tree(site.mirror))
    assert mirrors[0] == mirrors[1]


# --- What is in use


def test_another_package_under_the_name_of_a_used_one_is_refused(bundle: Path, site: Site, tmp_path: Path) -> None:
    _install(bundle, site)
    before = tree(site.root)
    rebuilt = write_bundle(tmp_path / "rebuilt", {**PACKAGES, **wheel("a", b"rebuilt")}, version="2")
    with pytest.raises(InstallationError) as caught:
        _install(rebuilt, site)
    assert digest(b"rebuilt") in str(caught.value)
    assert digest(PACKAGES[next(iter(wheel("a")))]) in str(caught.value)
    assert "the environment prefect of bundle 1" in str(caught.value)
    assert tree(site.root) == before


def test_a_deployed_flows_package_is_not_replaced(bundle: Path, site: Site, tmp_path: Path) -> None:
    _install(bundle, site)
    deploy(site.root, "report", wheel("e", b"of the pack"))
    with pytest.raises(InstallationError, match="the deployed flow report/daily"):
        _install(write_bundle(tmp_path / "other", {**PACKAGES, **wheel("e")}, version="2"), site)


def test_what_a_deployed_flow_relies_on_survives_newer_and_older_bundles(
    bundle: Path, site: Site, tmp_path: Path
) -> None:
    _install(bundle, site)
    packages = wheel("e")
    deploy(site.root, "report", packages)
    record = tree(site.root / "flows")
    _install(write_bundle(tmp_path / "newer", wheel("b"), version="2"), site)
    _install(bundle, site)
    assert tree(site.root / "flows") == record
    (description,) = site.root.glob("environments/report-*.json")
    assert description.name in {Path(name).name for name in record}
    (path, content), *_ = packages.items()
    assert (site.root / path).read_bytes() == content


def test_a_package_that_nothing_uses_is_replaced(site: Site, bundle: Path) -> None:
    path, content = next(iter(deb("d").items()))
    (site.root / path).parent.mkdir(parents=True)
    (site.root / path).write_bytes(b"another")
    _install(bundle, site)
    assert (site.root / path).read_bytes() == content


# --- Recording


def test_the_manifest_is_recorded_last(bundle: Path, site: Site) -> None:
    populate(bundle, site, NOTHING)
    assert site.installed() is None
    assert finish(bundle, site) > 0
    assert site.installed() == read_manifest(bundle)
    assert finish(bundle, site) == 0


def test_the_lists_of_the_last_bundles_are_kept(site: Site, tmp_path: Path) -> None:
    bundles = [write_bundle(tmp_path / str(number), wheel("a"), version=str(number)) for number in range(5)]
    for bundle in bundles:
        _install(bundle, site)
    assert [kept.manifest.bundle_version for kept in site.kept()] == ["2", "3", "4"]
    assert [kept.number for kept in site.kept()] == [3, 4, 5]
    assert (site.kept()[0].path / "SHA256SUMS").is_file()


def test_an_older_bundle_that_comes_back_is_the_last_one(site: Site, tmp_path: Path) -> None:
    bundles = [write_bundle(tmp_path / str(number), wheel("a"), version=str(number)) for number in range(3)]
    for bundle in (*bundles, bundles[0]):
        _install(bundle, site)
    assert [kept.manifest.bundle_version for kept in site.kept()] == ["1", "2", "0"]
    assert _install(bundles[0], site) == 0


def test_leftovers_of_an_interrupted_run_do_no_harm(bundle: Path, site: Site) -> None:
    path = next(iter(wheel("a")))
    leftover = (site.root / path).with_name(f".{Path(path).name}.part")
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"a wh")
    (site.bundles / ".0001-abc").mkdir(parents=True)
    _install(bundle, site)
    assert not leftover.exists()
    assert [path.name for path in site.bundles.iterdir()] == [site.kept()[0].path.name]


def test_a_full_disk_is_refused(bundle: Path, site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)._replace(free=100_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InstallationError, match="has 100 MB free and 600 MB are needed"):
        check_room(bundle, read_manifest(bundle), site, NOTHING, 600_000_000)
