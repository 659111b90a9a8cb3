"""Which security updates nodes lack, of which no more is known than their packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from debian_archive import Deb, make_key, write_archive

from airgap.errors import ResolutionError
from airgap.sources.apt import AptSource
from airgap.sources.apt_updates import kept_back, render_preferences, render_status
from airgap.sources.interface import Download
from airgap.targets import parse_target

pytestmark = pytest.mark.process

DEBIAN_12 = parse_target("debian-12")
STATUS = {"app:amd64": "1.0-1", "lib:amd64": "1.0", "data:all": "2.0"}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_key(tmp_path_factory.mktemp("gpg"))


def make_source(tmp_path: Path, key: Path) -> AptSource:
    return AptSource(tmp_path / "cache", {"*": [(tmp_path / "debian").as_uri()]}, keyrings=key / "keyrings")


def updates(tmp_path: Path, key: Path, *statuses: dict[str, str]) -> list[Download]:
    return make_source(tmp_path, key).security_updates(statuses, DEBIAN_12)


def named(downloads: list[Download]) -> set[str]:
    return {download.display_name for download in downloads}


def test_only_the_security_suite_upgrades(tmp_path: Path, key: Path) -> None:
    main = [Deb("app", "1.1-1"), Deb("lib", "1.0"), Deb("data", "2.1", architecture="all"), Deb("other", "1")]
    security = [Deb("app", "1.0-1+deb12u1"), Deb("other", "2")]
    write_archive(tmp_path / "debian", {"bookworm": main, "bookworm-security": security}, key)
    (update,) = updates(tmp_path, key, STATUS)
    assert update.path == "mirror/apt/debian-12-x86_64/app_1.0-1+deb12u1_amd64.deb"
    assert (update.name, update.version, update.size) == ("app", "1.0-1+deb12u1", len(security[0].content))
    assert update.record is not None
    assert update.record["SHA256"] == update.sha256


def test_each_kind_of_node_gets_its_own(tmp_path: Path, key: Path) -> None:
    security = [Deb("app", "1.2"), Deb("lib", "1.0"), Deb("gpu", "1:3")]
    write_archive(tmp_path / "debian", {"bookworm-security": security}, key)
    assert named(updates(tmp_path, key, STATUS)) == {"app_1.2_amd64.deb"}
    assert named(updates(tmp_path, key, STATUS | {"gpu:amd64": "1:2"}, {"lib:amd64": "0.9"})) == {
        "app_1.2_amd64.deb", "gpu_3_amd64.deb", "lib_1.0_amd64.deb",
    }  # fmt: skip


def test_what_is_up_to_date_gets_nothing(tmp_path: Path, key: Path) -> None:
    # As it stands in the archive: the installed one differs, since what it depends on is not known.
    security = [Deb("app", "1.0-1", "Depends: lib\n"), Deb("lib", "0.9"), Deb("data", "1:0.1", architecture="all")]
    write_archive(tmp_path / "debian", {"bookworm-security": security}, key)
    assert updates(tmp_path, key, STATUS | {"data:all": "1:0.1"}) == []


def test_an_update_brings_what_it_newly_needs_from_any_suite(tmp_path: Path, key: Path) -> None:
    main = [Deb("new", "1"), Deb("new-too", "1")]
    security = [Deb("app", "1.2", "Depends: new, lib\nRecommends: new-too\n")]
    write_archive(tmp_path / "debian", {"bookworm": main, "bookworm-security": security}, key)
    assert named(updates(tmp_path, key, STATUS)) == {"app_1.2_amd64.deb", "new_1_amd64.deb"}


def test_what_installed_packages_provide_is_there(tmp_path: Path, key: Path) -> None:
    # The installed version is in no archive any more; what is there now tells what it provides.
    main = [Deb("lib", "1.5", "Provides: lib-api-1\n"), Deb("another-lib", "1", "Provides: lib-api-1\n")]
    security = [Deb("app", "1.2", "Depends: lib-api-1\n")]
    write_archive(tmp_path / "debian", {"bookworm": main, "bookworm-security": security}, key)
    assert named(updates(tmp_path, key, STATUS)) == {"app_1.2_amd64.deb"}


def test_an_update_that_needs_a_newer_version_of_something_installed_brings_it(tmp_path: Path, key: Path) -> None:
    main = [Deb("lib", "1.5"), Deb("data", "2.1", architecture="all")]
    security = [Deb("app", "1.2", "Depends: lib (>= 1.4)\n"), Deb("gpu", "2")]
    write_archive(tmp_path / "debian", {"bookworm": main, "bookworm-security": security}, key)
    assert named(updates(tmp_path, key, STATUS | {"gpu:amd64": "1"})) == {
        "app_1.2_amd64.deb", "gpu_2_amd64.deb", "lib_1.5_amd64.deb",
    }  # fmt: skip


def test_an_update_that_cannot_be_installed_is_refused(tmp_path: Path, key: Path) -> None:
    security = [Deb("app", "1.2", "Depends: nosuch\n")]
    write_archive(tmp_path / "debian", {"bookworm-security": security}, key)
    with pytest.raises(ResolutionError, match=r"apt cannot resolve packages for debian-12-x86_64 .*nosuch"):
        updates(tmp_path, key, STATUS)


def test_another_architecture_on_the_same_node(tmp_path: Path, key: Path) -> None:
    same = "Multi-Arch: same\n"
    security = [Deb("lib", "1.1", same), Deb("lib", "1.1", same, architecture="i386")]
    write_archive(tmp_path / "debian", {"bookworm-security": security}, key, ("amd64", "i386"))
    assert named(updates(tmp_path, key, {"lib:amd64": "1.0", "lib:i386": "1.0"})) == {
        "lib_1.1_amd64.deb", "lib_1.1_i386.deb",
    }  # fmt: skip


def test_the_closure_is_resolved_as_before(tmp_path: Path, key: Path) -> None:
    write_archive(tmp_path / "debian", {"bookworm": [Deb("app", "1.1")], "bookworm-security": [Deb("app", "1.2")]}, key)
    source = make_source(tmp_path, key)
    before = source.resolve(["app"], DEBIAN_12)
    assert source.security_updates([STATUS], DEBIAN_12) == before
    assert source.resolve(["app"], DEBIAN_12) == before


def test_a_status_file_borrows_only_what_others_need() -> None:
    stanza = {"Package": "lib", "Architecture": "amd64", "Version": "2", "Depends": "x", "Provides": "api (= 2)"}
    assert render_status({"lib:amd64": "1", "app:all": "1:2", "lib:i386": "1"}, [stanza], "amd64") == (
        "Package: app\nStatus: install ok installed\nArchitecture: all\nVersion: 1:2\n\n"
        "Package: lib\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\nProvides: api (= 2)\n\n"
    )


def test_the_security_suite_goes_first_in_the_preferences() -> None:
    pins = [line for line in render_preferences(DEBIAN_12).splitlines() if line.startswith("Pin")]
    assert pins[:2] == ["Pin: release n=bookworm-security", "Pin-Priority: 500"]
    assert pins[-1] == "Pin-Priority: 50"


def test_what_apt_keeps_back_is_read_from_what_it_prints() -> None:
    printed = "Calculating upgrade...\nThe following packages have been kept back:\n  a b:i386\n  c\n'http://x' x 1\n"
    assert kept_back(printed) == ["a", "b:i386", "c"]
    assert kept_back("Calculating upgrade...\n") == []


@pytest.mark.network
def test_a_node_of_the_first_day_of_debian_12(tmp_path: Path) -> None:
    node = {"openssl:amd64": "3.0.9-1", "libssl3:amd64": "3.0.9-1", "base-files:amd64": "12.4", "libc6:amd64": "2.36-9"}
    found = AptSource(tmp_path, {}).security_updates([node], DEBIAN_12)
    versions = {download.name: download.version for download in found}
    assert {"openssl", "libssl3"} <= versions.keys()
    assert versions["openssl"] == versions["libssl3"]
    # Newer since only in the release itself.
    assert "base-files" not in versions
