"""Updates from the mirror: what is newer there, what is kept back, and what still runs of what was replaced."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_mirror_apt import NEEDS_APT

from ansible.module_utils import mirror_apt, restart_needs
from ansible.module_utils.mirror_apt import Mirror, MirrorAptError, Upgrade, pending_upgrades
from ansible.module_utils.restart_needs import deleted_files, reboot_reasons, stale_units

STANZA = """\
Package: {name}
Version: {version}
Architecture: all
Maintainer: T <t@test.invalid>
{more}Filename: {name}_{version}_all.deb
Size: 3
SHA256: 0000
Description: test
"""
INSTALLED = """\
Package: {name}
Status: {want} ok installed
Version: {version}
Architecture: all
Maintainer: T <t@test.invalid>
Description: test
"""


def mirror(directory: Path, **packages: str) -> Mirror:
    """Return a mirror of packages, each with version and further fields (``Depends: x``), separated by a bar."""
    stanzas = []
    for name, text in packages.items():
        version, _, more = text.partition("|")
        stanzas.append(STANZA.format(name=name.replace("_", "-"), version=version, more=f"{more}\n" if more else ""))
    return Mirror("\n".join(stanzas), directory)


@pytest.fixture
def status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The record of installed packages that apt sees instead of the host's."""
    file = tmp_path / "status"
    packages = [("pag-old", "1.0", "install"), ("pag-new", "3.0", "install"), ("pag-held", "1.0", "hold")]
    file.write_text("\n".join(INSTALLED.format(name=name, version=v, want=want) for name, v, want in packages))
    real = mirror_apt._private_options

    @contextmanager
    def options(mirror: Mirror) -> Iterator[list[str]]:
        with real(mirror) as found:
            yield [*found, f"--option=Dir::State::status={file}"]

    monkeypatch.setattr(mirror_apt, "_private_options", options)
    return file


@NEEDS_APT
@pytest.mark.usefixtures("status")
def test_only_what_is_newer_is_upgraded(tmp_path: Path) -> None:
    pending = pending_upgrades(mirror(tmp_path, pag_old="2.0+x", pag_new="2.0", pag_other="5"))
    assert pending.upgrades == (Upgrade("pag-old:all", "1.0", "2.0+x"),)
    assert pending.files == ("pag-old_2.0+x_all.deb",)
    assert pending.kept_back == ()


@NEEDS_APT
@pytest.mark.usefixtures("status")
def test_a_package_that_an_upgrade_needs_comes_along(tmp_path: Path) -> None:
    pending = pending_upgrades(mirror(tmp_path, pag_old="2.0|Depends: pag-image-2", pag_image_2="2.0"))
    assert pending.upgrades == (Upgrade("pag-image-2:all", "", "2.0"), Upgrade("pag-old:all", "1.0", "2.0"))
    assert pending.files == ("pag-image-2_2.0_all.deb", "pag-old_2.0_all.deb")


@NEEDS_APT
@pytest.mark.usefixtures("status")
@pytest.mark.parametrize("more", ["Depends: pag-nowhere", "Conflicts: pag-new"])
def test_what_cannot_be_had_or_would_remove_another_is_kept_back(tmp_path: Path, more: str) -> None:
    pending = pending_upgrades(mirror(tmp_path, pag_old=f"2.0|{more}"))
    assert (pending.upgrades, pending.files, pending.kept_back) == ((), (), ("pag-old",))


@NEEDS_APT
@pytest.mark.usefixtures("status")
def test_what_is_on_hold_stays(tmp_path: Path) -> None:
    pending = pending_upgrades(mirror(tmp_path, pag_held="2.0"))
    assert (pending.upgrades, pending.kept_back) == ((), ("pag-held",))


@NEEDS_APT
@pytest.mark.usefixtures("status")
def test_nothing_is_changed_when_a_file_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = mirror_apt.run

    def run(command: list[str]) -> str:
        assert "--yes" not in command
        return "" if command[0] == "dpkg" else real(command)

    monkeypatch.setattr(mirror_apt, "run", run)
    with pytest.raises(MirrorAptError, match=r"pag-old_2\.0_all\.deb is missing"):
        mirror_apt.upgrade(mirror(tmp_path, pag_old="2.0"))


MAPS = """\
7f00-7f01 r--p 00000000 00:2a 1   /usr/lib/x86_64-linux-gnu/libssl.so.3{deleted}
7f01-7f02 r-xp 00000000 00:2a 1   /usr/lib/x86_64-linux-gnu/libssl.so.3{deleted}
7f02-7f03 r-xp 00000000 00:01 2   /memfd:doublemapper (deleted)
7f02-7f03 r-xp 00000000 00:01 2   /tmp/jit-1234 (deleted)
7f03-7f04 rw-s 00000000 00:01 3   /dev/shm/x (deleted)
"""


def machine(
    root: Path, *, deleted: dict[str, bool], running: str = "6.1.0-9-amd64", version: str = "#1 SMP Debian 6.1.9-1"
) -> Path:
    """Make a root directory with processes, each with whether it uses a deleted library."""
    for pid, is_deleted in deleted.items():
        process = root / "proc" / pid
        process.mkdir(parents=True)
        (process / "maps").write_text(MAPS.format(deleted=" (deleted)" if is_deleted else ""))
        (process / "cgroup").write_text(f"0::/system.slice/number-{pid}.service/child\n")
        (process / "comm").write_text("program\n")
    (root / "proc/sys/kernel").mkdir(parents=True)
    (root / "proc/sys/kernel/osrelease").write_text(f"{running}\n")
    (root / "proc/sys/kernel/version").write_text(f"{version} (2026-01-01)\n")
    (root / "boot").mkdir()
    (root / "boot/vmlinuz-6.1.0-9-amd64").touch()
    return root


def test_a_machine_that_runs_what_is_installed_needs_nothing(tmp_path: Path) -> None:
    root = machine(tmp_path, deleted={"1": False, "20": False})
    assert reboot_reasons(root) == stale_units(root) == []


def test_units_that_use_replaced_files_are_named(tmp_path: Path) -> None:
    root = machine(tmp_path, deleted={"1": False, "20": True, "30": False})
    assert stale_units(root) == ["number-20.service"]
    assert reboot_reasons(root) == []
    assert deleted_files(root / "proc/20") == ["/usr/lib/x86_64-linux-gnu/libssl.so.3"]


def test_a_replaced_first_process_needs_a_reboot(tmp_path: Path) -> None:
    root = machine(tmp_path, deleted={"1": True})
    assert reboot_reasons(root) == ["the first process (systemd) still uses files that were replaced"]
    assert stale_units(root) == []


def test_packages_can_ask_for_a_reboot(tmp_path: Path) -> None:
    root = machine(tmp_path, deleted={"1": False})
    (root / "run").mkdir()
    (root / "run/reboot-required").touch()
    assert reboot_reasons(root) == ["packages ask for it"]
    (root / "run/reboot-required.pkgs").write_text("libc6\ndbus\nlibc6\n")
    assert reboot_reasons(root) == ["packages ask for it (dbus, libc6)"]


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="needs dpkg")
def test_a_newer_kernel_needs_a_reboot(tmp_path: Path) -> None:
    root = machine(tmp_path, deleted={"1": False})
    for release in ("6.1.0-10-amd64", "6.1.0-11-amd64", "6.1.0-8-amd64"):
        (root / f"boot/vmlinuz-{release}").touch()
    assert reboot_reasons(root) == ["the kernel 6.1.0-11-amd64 is installed, 6.1.0-9-amd64 is running"]


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="needs dpkg")
def test_a_container_on_another_kernel_needs_none(tmp_path: Path) -> None:
    root = machine(tmp_path, deleted={"1": False}, running="5.10.0-custom", version="#1 SMP custom")
    assert reboot_reasons(root) == []


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="needs dpkg")
def test_a_kernel_of_the_same_name_can_be_newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(tmp_path, deleted={"1": False})
    versions = {"linux-image-6.1.0-9-amd64": "6.1.9-1"}
    monkeypatch.setattr(restart_needs, "_package_version", lambda name: versions.get(name, ""))
    assert reboot_reasons(root) == []
    versions["linux-image-6.1.0-9-amd64"] = "6.1.9-2"
    assert reboot_reasons(root) == ["the kernel's package is of version 6.1.9-2, 6.1.9-1 is running"]
