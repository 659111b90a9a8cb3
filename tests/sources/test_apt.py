"""Debian packages: where they come from, that signatures count, and that the index is apt's own."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from airgap.errors import ResolutionError
from airgap.sources.apt import AptSource, read_package_list, render_packages, render_release
from airgap.sources.apt_archives import SourceEntry, find_archive, host_entries, parse_deb822, parse_one_line
from airgap.sources.interface import Download
from airgap.targets import parse_target

DEBIAN_12 = parse_target("debian-12")
DEBIAN_13 = parse_target("debian-13")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

DEB822 = f"""\
# the archive
Types: deb deb-src
# http://somewhere.invalid/snapshot
URIs: http://archive.invalid/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By: {KEYRING}

Types: deb
URIs: http://security.invalid/debian-security
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://disabled.invalid/debian
Suites: bookworm
Components: main
"""


@pytest.fixture
def keyrings(tmp_path: Path) -> Path:
    directory = tmp_path / "keyrings"
    directory.mkdir()
    for name in ("debian-archive-keyring.gpg", "ubuntu-archive-keyring.gpg"):
        (directory / name).touch()
    return directory


def test_deb822_gives_each_suite_of_the_enabled_binary_repositories() -> None:
    assert [(entry.uri, entry.suite) for entry in parse_deb822(DEB822)] == [
        ("http://archive.invalid/debian", "bookworm"),
        ("http://archive.invalid/debian", "bookworm-updates"),
        ("http://security.invalid/debian-security", "bookworm-security"),
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("deb http://a.invalid/debian bookworm main contrib", [("http://a.invalid/debian", "bookworm", "")]),
        ("deb [arch=amd64 signed-by=/k.gpg] http://a.invalid/d/ s main # x", [("http://a.invalid/d", "s", "/k.gpg")]),
        ("deb-src http://a.invalid/debian bookworm main", []),
        ("# deb http://a.invalid/debian bookworm main", []),
        ("", []),
    ],
)
def test_one_line_format(line: str, expected: list[tuple[str, str, str]]) -> None:
    assert [(entry.uri, entry.suite, entry.signed_by) for entry in parse_one_line(line)] == expected


def test_host_entries_reads_both_formats_and_mirror_lists(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    mirror_list = tmp_path / "mirrors.list"
    mirror_list.write_text("# comment\nhttp://mirror.invalid/debian/ priority:1\n")
    (tmp_path / "sources.list").write_text(
        "deb http://old.invalid/debian bookworm main\ndeb cdrom:[x]/ bookworm main\n"
    )
    (parts / "cloud.sources").write_text(
        f"Types: deb\nURIs: mirror+file://{mirror_list}\nSuites: bookworm\nComponents: main\n"
    )
    (parts / "off.sources.disabled").write_text(DEB822)
    assert [entry.uri for entry in host_entries(tmp_path)] == [
        "http://old.invalid/debian",
        "http://mirror.invalid/debian",
    ]


def test_the_distributions_own_entry_is_chosen_among_others(keyrings: Path) -> None:
    entries = [
        SourceEntry("http://vendor.invalid/apt", "bookworm", ("main",), "/usr/share/keyrings/vendor.gpg"),
        SourceEntry("http://docker.invalid/linux/debian", "bookworm", ("stable",)),
        *parse_deb822(DEB822),
    ]
    archive = find_archive(DEBIAN_12, {}, entries, keyrings)
    assert (archive.uri, archive.security_uri) == (
        "http://archive.invalid/debian",
        "http://security.invalid/debian-security",
    )


def test_another_release_of_the_same_distribution_is_derived(keyrings: Path) -> None:
    archive = find_archive(DEBIAN_13, {}, parse_deb822(DEB822), keyrings)
    assert "Suites: trixie trixie-updates\n" in str(archive)
    assert "URIs: http://security.invalid/debian-security\nSuites: trixie-security\n" in str(archive)


def test_a_mirror_goes_before_the_hosts_sources(keyrings: Path) -> None:
    mirrors = {"debian-12": "https://mirror.invalid/debian/", "": "https://other.invalid/debian"}
    archive = find_archive(DEBIAN_12, mirrors, parse_deb822(DEB822), keyrings)
    assert (archive.uri, archive.security_uri) == (
        "https://mirror.invalid/debian",
        "https://mirror.invalid/debian-security",
    )
    assert find_archive(DEBIAN_13, mirrors, [], keyrings).uri == "https://other.invalid/debian"


@pytest.mark.parametrize("name", ["ubuntu-22.04", "ubuntu-24.04-aarch64"])
def test_another_distribution_needs_a_mirror(name: str, keyrings: Path) -> None:
    with pytest.raises(ResolutionError, match=rf"--apt-mirror {name.removesuffix('-aarch64')}=URL"):
        find_archive(parse_target(name), {}, parse_deb822(DEB822), keyrings)


def test_ubuntus_security_updates_are_in_the_archive(keyrings: Path) -> None:
    archive = find_archive(parse_target("ubuntu-24.04"), {"": "http://u.invalid/ubuntu"}, [], keyrings)
    assert archive.security_uri == "http://u.invalid/ubuntu"
    assert "Components: main universe\n" in str(archive)


def test_a_missing_keyring_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(ResolutionError, match="install the package ubuntu-keyring"):
        find_archive(parse_target("ubuntu-22.04"), {"": "http://u.invalid/ubuntu"}, [], tmp_path)


def test_package_list_without_comments(tmp_path: Path) -> None:
    path = tmp_path / "apt.txt"
    path.write_text("# why\nrsync  # transfer\n\nacl\n")
    assert read_package_list(path) == ["rsync", "acl"]


def _deb(name: str) -> Download:
    record = {"Package": name, "Version": "1", "Filename": f"pool/{name}_1_all.deb", "Conffiles": "\n /etc/x 0"}
    file = f"{name}_1_all.deb"
    return Download(f"http://a.invalid/{file}", f"mirror/apt/t/{file}", "0", 1, "deb", name, "1", record=record)


def test_index_is_independent_of_the_order_and_names_the_flat_files() -> None:
    packages = render_packages([_deb("b"), _deb("a")])
    assert packages == render_packages([_deb("a"), _deb("b")])
    assert packages.decode().split("\n\n")[0] == (
        "Package: a\nVersion: 1\nFilename: a_1_all.deb\nConffiles:\n /etc/x 0"
    )
    assert hashlib.sha256(packages).hexdigest() in render_release("t", packages).decode()


def _write_archive(root: Path, *, sign_with: Path | None) -> None:
    """Write a Debian archive of two packages, one of which needs the other, with its updates and security suites."""
    pool = root / "pool"
    pool.mkdir(parents=True)
    stanzas = []
    for name, depends in (("leaf", "Depends: base (>= 1:2)\n"), ("base", "")):
        version = "1:2.0+x"
        content = f"deb of {name}".encode()
        file = pool / f"{name}_2.0+x_all.deb"
        file.write_bytes(content)
        stanzas.append(
            f"Package: {name}\nVersion: {version}\nArchitecture: all\n{depends}Filename: pool/{file.name}\n"
            f"Size: {len(content)}\nMD5sum: {hashlib.md5(content).hexdigest()}\n"  # noqa: S324 - the format wants it
            f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
        )
    for suite in ("bookworm", "bookworm-updates", "bookworm-security"):
        directory = root / "dists" / suite
        index = directory / "main" / "binary-amd64" / "Packages"
        index.parent.mkdir(parents=True)
        index.write_text("\n".join(stanzas) if suite == "bookworm" else "")
        release = directory / "Release"
        index_line = f"{hashlib.sha256(index.read_bytes()).hexdigest()} {index.stat().st_size}"
        release.write_text(
            f"Origin: Test\nSuite: {suite}\nCodename: {suite}\nArchitectures: amd64\nComponents: main\n"
            f"Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n {index_line} main/binary-amd64/Packages\n"
        )
        if sign_with is not None:
            _gpg(sign_with, "--clearsign", "--output", str(directory / "InRelease"), str(release))


def _gpg(home: Path, *arguments: str) -> None:
    subprocess.run(["gpg", "--homedir", str(home), "--batch", "--yes", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signing key; its public half is in keyrings/ beside it."""
    if shutil.which("gpg") is None or shutil.which("apt-get") is None:
        pytest.skip("needs gpg and apt")
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)
    _gpg(home, "--passphrase", "", "--quick-generate-key", "archive@test.invalid", "ed25519", "sign", "never")
    (home / "keyrings").mkdir()
    _gpg(home, "--output", str(home / "keyrings" / "debian-archive-keyring.gpg"), "--export")
    return home


def _source(tmp_path: Path, key: Path) -> AptSource:
    archive = (tmp_path / "debian").as_uri()
    (tmp_path / "debian-security").symlink_to("debian")
    return AptSource(tmp_path / "cache", {"": archive}, key / "keyrings")


def test_resolve_takes_the_closure_with_hashes_from_the_signed_index(tmp_path: Path, key: Path) -> None:
    _write_archive(tmp_path / "debian", sign_with=key)
    downloads = _source(tmp_path, key).resolve(["leaf"], DEBIAN_12)
    assert {download.name: download.version for download in downloads} == {"leaf": "1:2.0+x", "base": "1:2.0+x"}
    leaf = next(download for download in downloads if download.name == "leaf")
    assert leaf.sha256 == hashlib.sha256(b"deb of leaf").hexdigest()
    assert leaf.size == len(b"deb of leaf")
    assert leaf.path == "mirror/apt/debian-12-x86_64/leaf_2.0+x_all.deb"
    assert leaf.url.startswith("file:")


def test_an_unsigned_archive_is_refused(tmp_path: Path, key: Path) -> None:
    _write_archive(tmp_path / "debian", sign_with=None)
    with pytest.raises(ResolutionError, match="is not signed"):
        _source(tmp_path, key).resolve(["leaf"], DEBIAN_12)


def test_a_package_list_changed_after_signing_is_refused(tmp_path: Path, key: Path) -> None:
    _write_archive(tmp_path / "debian", sign_with=key)
    index = tmp_path / "debian/dists/bookworm/main/binary-amd64/Packages"
    index.write_text(index.read_text().replace("SHA256: ", "SHA256: 0"))
    with pytest.raises(ResolutionError, match="apt cannot resolve packages for debian-12-x86_64"):
        _source(tmp_path, key).resolve(["leaf"], DEBIAN_12)


def test_an_unknown_package_is_named(tmp_path: Path, key: Path) -> None:
    _write_archive(tmp_path / "debian", sign_with=key)
    with pytest.raises(ResolutionError, match="Unable to locate package nosuch"):
        _source(tmp_path, key).resolve(["nosuch"], DEBIAN_12)
