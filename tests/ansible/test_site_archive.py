"""The archive of a controller: all of its own files, put back where they were, and refused when it is not whole."""

from __future__ import annotations

import io
import os
import pwd
import tarfile
from pathlib import Path

import controller_archive
import controller_restore
import pytest

from ansible.module_utils.site_archive import ArchiveError, check, entries, read_manifest, write

ABOUT = {"made": "2026-11-20T02:15:00Z", "bundle": {"version": "1", "digest": "d"}}
OWNER = pwd.getpwuid(os.getuid())


@pytest.fixture
def controller(tmp_path: Path) -> Path:
    """A controller with playbooks and a deployed flow."""
    playbooks, flow = tmp_path / "ansible", tmp_path / "pag/flows/my-flow/nightly"
    for directory in (playbooks / "group_vars", playbooks / "host_vars", flow / "code"):
        directory.mkdir(parents=True)
    (playbooks / "inventory.yml").write_text("all:\n")
    (playbooks / "secrets.yml").write_text("prefect_basic_auth_key: admin:x\n")
    (playbooks / "secrets.yml").chmod(0o600)
    (playbooks / "group_vars/all.yml").write_text("ours: true\n")
    (playbooks / "group_vars/site.yml").write_text("theirs: true\n")
    (playbooks / "host_vars/pag-server.yml").write_text("x: 1\n")
    (flow / "code/main.py").write_text("print()\n")
    (flow / "current").symlink_to("code")
    return tmp_path


@pytest.fixture
def archive(controller: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(controller_archive, "packages", lambda root: [])
    monkeypatch.setattr(controller_archive, "_SETTINGS", controller / "nowhere")
    playbooks = controller / "ansible"
    given = controller_archive.sources(playbooks, [playbooks / "inventory.yml"], controller / "pag")
    path = controller / "controller.tar"
    write(path, list(entries(given)), ABOUT)
    return path


def test_it_has_what_the_site_made_and_not_what_a_bundle_brings(archive: Path) -> None:
    assert [entry["path"] for entry in check(archive)["files"]] == [
        "flows/my-flow/nightly/code/main.py",
        "flows/my-flow/nightly/current",
        "playbooks/group_vars/site.yml",
        "playbooks/host_vars/pag-server.yml",
        "playbooks/inventory.yml",
        "playbooks/secrets.yml",
    ]
    assert archive.stat().st_mode & 0o777 == 0o600


def test_it_is_put_back_as_it_was_and_a_second_time_changes_nothing(
    archive: Path, controller: Path, tmp_path: Path
) -> None:
    playbooks, root = tmp_path / "new/ansible", tmp_path / "new/pag"
    manifest = check(archive)
    wanted = controller_restore.missing(manifest, playbooks, root)
    controller_restore.put(archive, wanted, OWNER)
    for old, new in ((controller / "ansible", playbooks), (controller / "pag", root)):
        for path in old.rglob("*"):
            if path.is_file() and path.name != "all.yml":
                found = new / path.relative_to(old)
                assert found.read_bytes() == path.read_bytes()
                assert found.lstat().st_mode == path.lstat().st_mode
    assert (root / "flows/my-flow/nightly/current").is_symlink()
    assert controller_restore.missing(manifest, playbooks, root) == {}


def test_a_file_that_is_there_and_differs_is_refused(archive: Path, tmp_path: Path) -> None:
    playbooks = tmp_path / "new"
    playbooks.mkdir()
    (playbooks / "inventory.yml").write_text("other:\n")
    with pytest.raises(ArchiveError, match=r"inventory.yml is there and is not the archive's"):
        controller_restore.missing(check(archive), playbooks, tmp_path / "pag")


def _members(path: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path) as opened:
        members = opened.getmembers()
        files = [opened.extractfile(member) if member.isfile() else None for member in members]
        return [(member, file.read() if file else b"") for member, file in zip(members, files, strict=True)]


def _rewrite(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(path, "w") as opened:
        for member, content in members:
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))


def test_a_cut_archive_is_refused(archive: Path) -> None:
    content = archive.read_bytes()
    for length in (0, 100, 700, len(content) // 3):
        archive.write_bytes(content[:length])
        with pytest.raises(ArchiveError):
            check(archive)


def test_a_changed_member_is_named(archive: Path) -> None:
    members = _members(archive)
    _rewrite(
        archive,
        [(member, b"all: x\n" if member.name.endswith("inventory.yml") else content) for member, content in members],
    )
    with pytest.raises(ArchiveError, match=r"playbooks/inventory\.yml in .* is not what was put there"):
        check(archive)


def test_a_missing_member_is_named(archive: Path) -> None:
    _rewrite(archive, [pair for pair in _members(archive) if not pair[0].name.endswith("secrets.yml")])
    with pytest.raises(ArchiveError, match=r"playbooks/secrets\.yml is missing"):
        check(archive)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "playbooks/../../outside", "other/file"])
def test_a_member_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_text("x")
    with pytest.raises(ArchiveError, match="that it should not have"):
        write(tmp_path / "a.tar", list(entries([(name, source)])), ABOUT)
    assert not (tmp_path / "a.tar").exists()


def test_a_link_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows/link").symlink_to("../../etc/passwd")
    with pytest.raises(ArchiveError, match="leads elsewhere"):
        write(tmp_path / "a.tar", list(entries([("flows", tmp_path / "flows")])), ABOUT)


def test_no_archive_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_text("hello")
    with pytest.raises(ArchiveError, match="cannot be read"):
        read_manifest(tmp_path / "a.tar")
