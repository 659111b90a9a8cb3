"""The commands that the controller's script calls."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from sites import TARGET, wheel, write_bundle

from airgap import controller
from airgap.errors import AirgapError
from airgap.populate import Contents
from airgap.site import Site
from airgap.targets import Target

NOTHING = Contents({})


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", wheel("a"), {"README.md": b"read me"})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "opt" / "pag")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Target:
    """A host that runs Debian 12 with its own Python."""
    monkeypatch.setattr(controller, "host_target", lambda _: TARGET)
    monkeypatch.setattr(platform, "python_version_tuple", lambda: ("3", "11", "2"))
    return TARGET


def test_check_names_the_hosts_target(bundle: Path, site: Site, host: Target) -> None:
    assert controller.check(bundle, site, NOTHING) == host.name
    assert not site.root.exists()


def test_a_bundle_for_another_system_is_refused(tmp_path: Path, site: Site, host: Target) -> None:
    other = write_bundle(tmp_path / "other", wheel("a"), targets=("debian-13",))
    with pytest.raises(AirgapError, match=rf"this host is {host.name}: build it with --target"):
        controller.check(other, site, NOTHING)


@pytest.mark.usefixtures("host")
def test_another_python_than_the_distributions_is_refused(
    bundle: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "python_version_tuple", lambda: ("3", "12", "0"))
    with pytest.raises(AirgapError, match=r"3\.12 instead of debian-12's own 3\.11"):
        controller.check(bundle, site, NOTHING)


@pytest.mark.usefixtures("host")
def test_a_delta_without_its_base_is_refused_before_anything_is_changed(
    tmp_path: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    delta = write_bundle(tmp_path / "delta", wheel("a"), left_out=wheel("a"))
    assert controller.main(["check", str(delta), str(site.root)]) == 1
    assert "relies on 1 files" in capsys.readouterr().err
    assert not site.root.exists()
    whole = write_bundle(tmp_path / "whole", wheel("a"))
    assert controller.main(["check", str(delta), str(site.root), f"--with={whole}"]) == 0


def test_the_commands_install_a_bundle(bundle: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("verify", "populate", "finish"):
        assert controller.main([command, str(bundle), str(site.root)]) == 0
    assert "all as listed" in capsys.readouterr().out
    assert site.installed() is not None
    for command in ("populate", "finish"):
        assert controller.main([command, str(bundle), str(site.root)]) == 0
        assert capsys.readouterr().out == "0\n"


def test_what_was_just_unpacked_has_no_file_of_the_operators(
    bundle: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "ansible").mkdir(exist_ok=True)
    (bundle / "ansible/inventory.yml").touch()
    assert controller.main(["verify", str(bundle), str(site.root)]) == 0
    assert controller.main(["verify", "--just-unpacked", str(bundle), str(site.root)]) == 1
    assert "ansible/inventory.yml should not be there" in capsys.readouterr().err


def test_the_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert controller.main(["check", str(tmp_path), str(tmp_path / "pag")]) == 1
    assert "is no bundle manifest" in capsys.readouterr().err
