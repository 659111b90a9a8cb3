"""The directory that a bundle is unpacked in, when newer bundles are unpacked over it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sites import tree, wheel, write_bundle

from airgap.controller import verify_unpacked
from airgap.errors import InstallationError, VerificationError
from airgap.populate import Contents, finish, populate
from airgap.site import Site, read_manifest
from airgap.unpacked import move_over

OLD = {"ansible/roles/old/tasks/main.yml": b"--- # old\n", "README.md": b"one"}
NEW = {"ansible/roles/new/tasks/main.yml": b"--- # new\n", "README.md": b"two"}
INVENTORY = b"all: {}\n"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "pag")


@pytest.fixture
def unpacked(tmp_path: Path, site: Site) -> Path:
    """An installed bundle that the operator works with, with a newer one unpacked over it."""
    directory = write_bundle(tmp_path / "pag-software-bundle", {**wheel("a"), **wheel("b")}, OLD)
    _install(directory, site)
    (directory / "ansible/inventory.yml").write_bytes(INVENTORY)
    (directory / "ansible/roles/old/__pycache__").mkdir()
    (directory / "ansible/roles/old/__pycache__/x.pyc").write_bytes(b"compiled")
    (directory / "ansible/roles/old/x.py").write_bytes(b"")
    (directory / "ansible/roles/old/x.py").unlink()
    return write_bundle(directory, wheel("b"), NEW, version="2")


def _install(bundle: Path, site: Site) -> None:
    populate(bundle, site, Contents({}))
    finish(bundle, site)


def test_what_only_an_older_bundle_had_is_removed(unpacked: Path, site: Site, tmp_path: Path) -> None:
    (unpacked / "ansible/roles/old/__pycache__/x.pyc").unlink()
    verify_unpacked(unpacked, site)
    _install(unpacked, site)
    assert (unpacked / "ansible/inventory.yml").read_bytes() == INVENTORY
    (unpacked / "ansible/inventory.yml").unlink()
    fresh = write_bundle(tmp_path / "fresh", wheel("b"), NEW, version="2")
    assert tree(unpacked).keys() == tree(fresh).keys()
    verify_unpacked(unpacked, Site(tmp_path / "another"))


def test_compiled_code_goes_too(unpacked: Path, site: Site) -> None:
    _install(unpacked, site)
    assert not (unpacked / "ansible/roles/old").exists()


def test_what_somebody_changed_is_neither_accepted_nor_removed(unpacked: Path, site: Site) -> None:
    (unpacked / "ansible/roles/old/__pycache__/x.pyc").unlink()
    changed = unpacked / "ansible/roles/old/tasks/main.yml"
    changed.write_bytes(b"--- # mine\n")
    with pytest.raises(VerificationError, match=r"roles/old/tasks/main\.yml should not be there"):
        verify_unpacked(unpacked, site)
    _install(unpacked, site)
    assert changed.is_file()


def test_an_older_bundles_signature_is_none_of_the_new_one(tmp_path: Path, site: Site) -> None:
    directory = write_bundle(tmp_path / "bundle", wheel("a"))
    (directory / "SHA256SUMS.sig").write_bytes(b"of the old one")
    _install(directory, site)
    write_bundle(directory, wheel("b"), version="2")
    assert verify_unpacked(directory, site).signer == "none"


def test_unfinished_files_of_an_interrupted_run_are_none_of_the_bundle(unpacked: Path, site: Site) -> None:
    (unpacked / "ansible/roles/old/__pycache__/x.pyc").unlink()
    unfinished = unpacked / "ansible/.main.yml.part"
    unfinished.write_bytes(b"--")
    verify_unpacked(unpacked, site)
    assert not unfinished.exists()


def test_unpacked_volumes_take_the_place_of_an_older_bundle(unpacked: Path, tmp_path: Path) -> None:
    newest = write_bundle(tmp_path / ".new", wheel("c"), {"README.md": b"three"}, version="3")
    expected = set(tree(newest))
    move_over(newest, unpacked)
    assert not newest.exists()
    assert read_manifest(unpacked).bundle_version == "3"
    # What the second bundle lists is gone; what only the first one brought is for the site's lists to tell.
    assert "ansible/roles/new/tasks/main.yml" not in tree(unpacked)
    assert expected <= set(tree(unpacked))
    assert (unpacked / "ansible/inventory.yml").read_bytes() == INVENTORY


def test_compiled_code_of_the_older_one_is_gone_where_volumes_were_unpacked(unpacked: Path, tmp_path: Path) -> None:
    move_over(write_bundle(tmp_path / "newest", wheel("b"), NEW, version="3"), unpacked)
    assert list(unpacked.rglob("*.pyc")) == []


def test_unpacked_volumes_move_to_a_new_directory(tmp_path: Path) -> None:
    newest = write_bundle(tmp_path / ".new", wheel("c"))
    expected = tree(newest)
    move_over(newest, tmp_path / "pag-software-bundle")
    assert tree(tmp_path / "pag-software-bundle") == expected


def test_another_directory_is_not_overwritten(tmp_path: Path) -> None:
    newest = write_bundle(tmp_path / ".new", wheel("c"))
    (tmp_path / "mine").mkdir()
    with pytest.raises(InstallationError, match="is no unpacked bundle"):
        move_over(newest, tmp_path / "mine")


@pytest.mark.parametrize("path", ["ansible/inventory.yml", "ansible/secrets.yml", "ansible/roles/evil/tasks/main.yml"])
@pytest.mark.parametrize("new", [False, True])
def test_what_the_bundle_does_not_list_is_not_moved(unpacked: Path, tmp_path: Path, path: str, new: bool) -> None:
    newest = write_bundle(tmp_path / ".new", wheel("c"), version="3")
    (newest / path).parent.mkdir(parents=True, exist_ok=True)
    (newest / path).write_bytes(b"evil")
    destination = tmp_path / "fresh" if new else unpacked
    before = tree(destination).get(path) if destination.exists() else None
    move_over(newest, destination)
    assert tree(destination).get(path) == before
    assert read_manifest(destination).bundle_version == "3"
    assert not newest.exists()


def test_the_lists_are_moved_with_their_signature(unpacked: Path, tmp_path: Path) -> None:
    newest = write_bundle(tmp_path / ".new", wheel("c"), version="3")
    (newest / "SHA256SUMS.sig").write_bytes(b"signed")
    lists = {name: (newest / name).read_bytes() for name in ("SHA256SUMS", "SHA256SUMS.sig", "manifest.json")}
    move_over(newest, unpacked)
    assert {name: (unpacked / name).read_bytes() for name in lists} == lists


def test_a_directory_that_was_just_unpacked_has_nothing_else(unpacked: Path, site: Site, tmp_path: Path) -> None:
    fresh = write_bundle(tmp_path / "fresh", wheel("b"), NEW, version="2")
    assert verify_unpacked(fresh, site, just_unpacked=True) == verify_unpacked(fresh, site)
    # An older bundle brought it, and so it may lie where that one was installed.
    (fresh / "ansible/roles/old/tasks").mkdir(parents=True)
    (fresh / "ansible/roles/old/tasks/main.yml").write_bytes(OLD["ansible/roles/old/tasks/main.yml"])
    verify_unpacked(fresh, site)
    with pytest.raises(VerificationError, match=r"roles/old/tasks/main\.yml should not be there"):
        verify_unpacked(fresh, site, just_unpacked=True)
