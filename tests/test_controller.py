"""Installing a bundle's files on the controller: all of them, once, by links, and as they were verified."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import pytest

from airgap import controller
from airgap.errors import AirgapError, InstallationError
from airgap.manifest import Manifest, ManifestFile, ManifestTarget
from airgap.targets import Target, parse_target

CARRIED = {
    "mirror/pypi/a.whl": b"a wheel",
    "mirror/conda/noarch/repodata.json": b"{}",
    "environments/prefect.json": b"description",
    "airgap/__init__.py": b"",
}
LEFT = {"ansible/main.yml": b"---", "README.md": b"read me"}


def _write_bundle(directory: Path, contents: dict[str, bytes], targets: tuple[str, ...] = ("debian-12",)) -> Path:
    files = []
    for name, content in contents.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        files.append(ManifestFile(name, hashlib.sha256(content).hexdigest(), len(content), "software"))
    parsed = [parse_target(name, platform.machine()) for name in targets]
    manifest = Manifest(
        bundle_version="1",
        created_by="test",
        interpreter="system",
        interpreter_reason="because.",
        targets=tuple(
            ManifestTarget(t.name, t.release.name, t.release.codename, t.architecture, t.release.python) for t in parsed
        ),
        environments=(),
        files=tuple(files),
    )
    (directory / "manifest.json").write_text(manifest.to_json())
    return directory


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return _write_bundle(tmp_path / "bundle", CARRIED | LEFT)


def _files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_what_nodes_need_is_linked_and_a_second_run_changes_nothing(bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "opt" / "pag"
    assert controller.populate(bundle, root) == len(CARRIED)
    assert _files(root) == set(CARRIED)
    assert (root / "mirror/pypi/a.whl").samefile(bundle / "mirror/pypi/a.whl")
    assert controller.populate(bundle, root) == 0


def test_a_later_bundle_adds_packages_and_replaces_indexes_and_modules(bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "pag"
    controller.populate(bundle, root)
    (root / "airgap" / "old.py").write_text("of an older bundle")
    later = {"mirror/pypi/b.whl": b"b", "mirror/conda/noarch/repodata.json": b"{1}", "airgap/__init__.py": b"new"}
    assert controller.populate(_write_bundle(tmp_path / "later", later), root) == 4
    assert _files(root) == set(CARRIED) | set(later)
    assert (root / "mirror/conda/noarch/repodata.json").read_bytes() == b"{1}"
    assert (bundle / "mirror/conda/noarch/repodata.json").read_bytes() == b"{}"


def test_a_damaged_file_is_replaced_without_writing_into_the_bundle(bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "pag"
    controller.populate(bundle, root)
    damaged = root / "mirror/pypi/a.whl"
    damaged.unlink()
    damaged.write_bytes(b"X wheel")
    assert controller.populate(bundle, root) == 1
    assert damaged.read_bytes() == b"a wheel"


def test_leftovers_of_an_interrupted_run_do_no_harm(bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "pag"
    leftover = root / "mirror/pypi/.a.whl.part"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"a wh")
    controller.populate(bundle, root)
    assert _files(root) == set(CARRIED)


def test_a_file_changed_after_it_was_verified_is_refused(bundle: Path, tmp_path: Path) -> None:
    (bundle / "mirror/pypi/a.whl").write_bytes(b"swapped")
    with pytest.raises(InstallationError, match=r"a\.whl was changed while it was installed"):
        controller.populate(bundle, tmp_path / "pag")
    assert not (tmp_path / "pag/mirror/pypi/a.whl").exists()


def test_files_are_copied_where_they_cannot_be_linked(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    root = tmp_path / "pag"
    assert controller.populate(bundle, root) == len(CARRIED)
    assert not (root / "mirror/pypi/a.whl").samefile(bundle / "mirror/pypi/a.whl")


def test_the_manifest_is_recorded_last(bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "pag"
    controller.populate(bundle, root)
    assert not (root / "manifest.json").exists()
    assert controller.finish(bundle, root) == 1
    assert controller.finish(bundle, root) == 0


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Target:
    """A host that runs Debian 12 with its own Python."""
    target = parse_target("debian-12", platform.machine())
    monkeypatch.setattr(controller, "host_target", lambda _: target)
    monkeypatch.setattr(controller.platform, "python_version_tuple", lambda: ("3", "11", "2"))
    return target


def test_check_names_the_hosts_target(bundle: Path, tmp_path: Path, host: Target) -> None:
    assert controller.check(bundle, tmp_path / "opt/pag") == host.name
    assert not (tmp_path / "opt").exists()


def test_a_bundle_for_another_system_is_refused(tmp_path: Path, host: Target) -> None:
    bundle = _write_bundle(tmp_path / "bundle", CARRIED, ("debian-13",))
    with pytest.raises(AirgapError, match=rf"this host is {host.name}: build it with --target"):
        controller.check(bundle, tmp_path / "pag")


@pytest.mark.usefixtures("host")
def test_another_python_than_the_distributions_is_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller.platform, "python_version_tuple", lambda: ("3", "12", "0"))
    with pytest.raises(AirgapError, match=r"3\.12 instead of debian-12's own 3\.11"):
        controller.check(bundle, tmp_path / "pag")


@pytest.mark.usefixtures("host")
def test_a_full_disk_is_refused(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = controller.shutil.disk_usage(tmp_path)._replace(free=100_000_000)
    monkeypatch.setattr(controller.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(AirgapError, match="has 100 MB free and 600 MB are needed"):
        controller.check(bundle, tmp_path / "pag")


def test_the_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert controller.main(["check", str(tmp_path), str(tmp_path / "pag")]) == 1
    assert "is no bundle manifest" in capsys.readouterr().err
