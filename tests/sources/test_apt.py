"""Debian packages: where they come from, that signatures count, and that the index is apt's own."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from debian_archive import gpg
from servers import serve

from airgap.errors import ResolutionError
from airgap.index_formats import render_release
from airgap.network import NetworkOptions
from airgap.sources.apt import AptSource, read_package_list
from airgap.sources.apt_archives import (
    AptRepository,
    SourceEntry,
    find_archives,
    host_entries,
    parse_deb822,
    parse_one_line,
)
from airgap.sources.apt_root import Apt, private_root
from airgap.sources.interface import Download
from airgap.targets import Target, parse_target

pytestmark = pytest.mark.process

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
    (archive,) = find_archives(DEBIAN_12, {}, entries, keyrings)
    assert (archive.uri, archive.security_uri) == (
        "http://archive.invalid/debian",
        "http://security.invalid/debian-security",
    )


def test_another_release_of_the_same_distribution_is_derived(keyrings: Path) -> None:
    (archive,) = find_archives(DEBIAN_13, {}, parse_deb822(DEB822), keyrings)
    assert "Suites: trixie\n" in str(archive)
    assert "Suites: trixie-updates\n" in str(archive)
    assert "URIs: http://security.invalid/debian-security\nSuites: trixie-security\n" in str(archive)


def test_a_mirror_goes_before_the_hosts_sources(keyrings: Path) -> None:
    mirrors = {"debian-12": ["https://mirror.invalid/debian/"], "*": ["https://other.invalid/debian"]}
    (archive,) = find_archives(DEBIAN_12, mirrors, parse_deb822(DEB822), keyrings)
    assert (archive.uri, archive.security_uri) == (
        "https://mirror.invalid/debian",
        "https://mirror.invalid/debian-security",
    )
    (other,) = find_archives(DEBIAN_13, mirrors, [], keyrings)
    assert other.uri == "https://other.invalid/debian"


def test_an_architecture_has_a_mirror_of_its_own(keyrings: Path) -> None:
    mirrors = {"ubuntu-24.04": ["http://a.invalid/ubuntu"], "ubuntu-24.04-aarch64": ["http://p.invalid/ubuntu-ports"]}
    uris = [find_archives(parse_target(name), mirrors, [], keyrings)[0].uri for name in ("ubuntu-24.04", *mirrors)]
    assert uris == ["http://a.invalid/ubuntu", "http://a.invalid/ubuntu", "http://p.invalid/ubuntu-ports"]


@pytest.mark.parametrize("name", ["ubuntu-22.04", "ubuntu-24.04-aarch64"])
def test_another_distribution_needs_a_mirror(name: str, keyrings: Path) -> None:
    with pytest.raises(ResolutionError, match=rf"--apt-mirror {name}=URL"):
        find_archives(parse_target(name), {}, parse_deb822(DEB822), keyrings)


def test_ubuntus_security_updates_are_in_the_archive(keyrings: Path) -> None:
    (archive,) = find_archives(parse_target("ubuntu-24.04"), {"*": ["http://u.invalid/ubuntu"]}, [], keyrings)
    assert archive.security_uri == "http://u.invalid/ubuntu"
    assert "Components: main universe\n" in str(archive)


def test_a_missing_keyring_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(ResolutionError, match="install the package ubuntu-keyring"):
        find_archives(parse_target("ubuntu-22.04"), {"*": ["http://u.invalid/ubuntu"]}, [], tmp_path)


def test_package_list_without_comments(tmp_path: Path) -> None:
    path = tmp_path / "apt.txt"
    path.write_text("# why\nrsync  # transfer\n\nacl\n")
    assert read_package_list(path) == ["rsync", "acl"]


def _deb(name: str) -> Download:
    record = {"Package": name, "Version": "1", "Filename": f"pool/{name}_1_all.deb", "Conffiles": "\n /etc/x 0"}
    file = f"{name}_1_all.deb"
    return Download(f"http://a.invalid/{file}", f"mirror/apt/t/{file}", "0", 1, "deb", name, "1", record=record)


def _packages(*names: str) -> bytes:
    index = next(file for file in AptSource(Path(), {}).index([_deb(name) for name in names]))
    return index.content


def test_index_is_independent_of_the_order_and_names_the_flat_files() -> None:
    packages = _packages("b", "a")
    assert packages == _packages("a", "b")
    assert packages.decode().split("\n\n")[0] == (
        "Package: a\nVersion: 1\nFilename: a_1_all.deb\nConffiles:\n /etc/x 0"
    )
    assert hashlib.sha256(packages).hexdigest() in render_release("t", packages).decode()


def _stanza(pool: Path, name: str, version: str, depends: str = "") -> str:
    content = f"deb of {name} {version}".encode()
    file = pool / f"{name}_{version.partition(':')[2] or version}_all.deb"
    pool.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return (
        f"Package: {name}\nVersion: {version}\nArchitecture: all\n{depends}Filename: {pool.name}/{file.name}\n"
        f"Size: {len(content)}\nMD5sum: {hashlib.md5(content).hexdigest()}\n"  # noqa: S324 - the format wants it
        f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
    )


def _write_suite(
    root: Path,
    suite: str,
    stanzas: list[str],
    sign_with: Path | None,
    *,
    architecture: str,
    components: tuple[str, ...],
) -> None:
    """Write a suite whose first component has *stanzas*."""
    directory = root / "dists" / suite
    lines = []
    for component in components:
        index = directory / component / f"binary-{architecture}" / "Packages"
        index.parent.mkdir(parents=True)
        index.write_text("\n".join(stanzas) if component == components[0] else "")
        digest = hashlib.sha256(index.read_bytes()).hexdigest()
        lines.append(f" {digest} {index.stat().st_size} {index.relative_to(directory)}\n")
    release = directory / "Release"
    release.write_text(
        f"Origin: Test\nSuite: {suite}\nCodename: {suite}\nArchitectures: {architecture}\n"
        f"Components: {' '.join(components)}\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n{''.join(lines)}"
    )
    if sign_with is not None:
        gpg(sign_with, "--clearsign", "--output", str(directory / "InRelease"), str(release))


def _write_archive(root: Path, *, sign_with: Path | None, target: Target = DEBIAN_12) -> None:
    """Write an archive of two packages, one of which needs the other, with its updates and security suites."""
    stanzas = [
        _stanza(root / "pool", "leaf", "1:2.0+x", "Depends: base (>= 1:2)\n"),
        _stanza(root / "pool", "base", "1:2.0+x"),
    ]
    codename = target.release.codename
    for suite in (codename, f"{codename}-updates", f"{codename}-security"):
        _write_suite(
            root,
            suite,
            stanzas if suite == codename else [],
            sign_with,
            architecture=target.debian_architecture,
            components=("main", "universe") if target.release.distribution == "ubuntu" else ("main",),
        )


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signing key; its public half is in keyrings/ beside it."""
    if shutil.which("gpg") is None or shutil.which("apt-get") is None:
        pytest.skip("needs gpg and apt")
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)
    gpg(home, "--passphrase", "", "--quick-generate-key", "archive@test.invalid", "ed25519", "sign", "never")
    (home / "keyrings").mkdir()
    for name in ("debian-archive-keyring.gpg", "ubuntu-archive-keyring.gpg"):
        gpg(home, "--output", str(home / "keyrings" / name), "--export")
    return home


def _source(tmp_path: Path, key: Path) -> AptSource:
    archive = (tmp_path / "debian").as_uri()
    (tmp_path / "debian-security").symlink_to("debian")
    return AptSource(tmp_path / "cache", {"*": [archive]}, keyrings=key / "keyrings")


def test_resolve_takes_the_closure_with_hashes_from_the_signed_index(tmp_path: Path, key: Path) -> None:
    _write_archive(tmp_path / "debian", sign_with=key)
    downloads = _source(tmp_path, key).resolve(["leaf"], DEBIAN_12)
    assert {download.name: download.version for download in downloads} == {"leaf": "1:2.0+x", "base": "1:2.0+x"}
    leaf = next(download for download in downloads if download.name == "leaf")
    assert leaf.sha256 == hashlib.sha256(b"deb of leaf 1:2.0+x").hexdigest()
    assert leaf.size == len(b"deb of leaf 1:2.0+x")
    assert leaf.path == "mirror/apt/debian-12-x86_64/leaf_2.0+x_all.deb"
    assert leaf.url.startswith("file:")


def test_an_unsigned_archive_is_refused(tmp_path: Path, key: Path) -> None:
    _write_archive(tmp_path / "debian", sign_with=None)
    with pytest.raises(ResolutionError, match="is not signed"):
        _source(tmp_path, key).resolve(["leaf"], DEBIAN_12)


def test_a_package_list_changed_after_signing_is_refused(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airgap.sources.apt_root._PAUSES", (0.0,))
    _write_archive(tmp_path / "debian", sign_with=key)
    index = tmp_path / "debian/dists/bookworm/main/binary-amd64/Packages"
    index.write_text(index.read_text().replace("SHA256: ", "SHA256: 0"))
    with pytest.raises(ResolutionError, match="apt cannot resolve packages for debian-12-x86_64"):
        _source(tmp_path, key).resolve(["leaf"], DEBIAN_12)


def test_an_unknown_package_is_named(tmp_path: Path, key: Path) -> None:
    _write_archive(tmp_path / "debian", sign_with=key)
    with pytest.raises(ResolutionError, match="Unable to locate package nosuch"):
        _source(tmp_path, key).resolve(["nosuch"], DEBIAN_12)


def test_a_login_page_in_place_of_an_archive_is_named(tmp_path: Path, key: Path) -> None:
    with serve(page=b"<!DOCTYPE html><html>Please log in</html>") as server:
        source = AptSource(tmp_path / "cache", {"*": [f"{server.url}/debian"]}, keyrings=key / "keyrings")
        with pytest.raises(ResolutionError, match=r"does the network require authentication\?"):
            source.resolve(["leaf"], DEBIAN_12)


@pytest.mark.parametrize("name", ["ubuntu-22.04", "ubuntu-24.04", "ubuntu-24.04-aarch64", "debian-13-aarch64"])
def test_other_targets_resolve_from_the_mirror_that_is_given(name: str, tmp_path: Path, key: Path) -> None:
    target = parse_target(name)
    _write_archive(tmp_path / "mirror", sign_with=key, target=target)
    (tmp_path / "mirror-security").symlink_to("mirror")
    mirrors = {target.name: [(tmp_path / "mirror").as_uri()]}
    downloads = AptSource(tmp_path / "cache", mirrors, keyrings=key / "keyrings").resolve(["leaf"], target)
    assert sorted(download.path for download in downloads) == [
        f"mirror/apt/{target.name}/base_2.0+x_all.deb",
        f"mirror/apt/{target.name}/leaf_2.0+x_all.deb",
    ]


def test_the_next_mirror_is_taken_where_one_fails_and_files_have_all_addresses(tmp_path: Path, key: Path) -> None:
    for name in ("first", "second"):
        _write_archive(tmp_path / name, sign_with=key)
        (tmp_path / f"{name}-security").symlink_to(name)
    gone, first, second = ((tmp_path / name).as_uri() for name in ("gone", "first", "second"))
    source = AptSource(tmp_path / "cache", {"*": [gone, first, second]}, keyrings=key / "keyrings")
    leaf = next(download for download in source.resolve(["leaf"], DEBIAN_12) if download.name == "leaf")
    name = "pool/leaf_2.0%2bx_all.deb"
    assert leaf.url.replace("file:/", "file:///") == f"{first}/{name}"
    assert leaf.mirrors == (f"{gone}/{name}", f"{second}/{name}")


@pytest.mark.parametrize(
    ("says", "passes"),
    [
        ("E: Failed to fetch http://m/InRelease  Temporary failure resolving 'm'", True),
        ("E: Failed to fetch http://m/InRelease  Could not connect to m:80 (192.0.2.1), connection timed out", True),
        ("E: Failed to fetch http://m/Packages.xz  File has unexpected size (8 != 9). Mirror sync in progress?", True),
        ("E: Failed to fetch http://m/Packages.xz  503  Service Unavailable [IP: 192.0.2.1 80]", True),
        ("E: Could not get lock /c/lists/lock. It is held by process 1 (apt-get)", True),
        ("E: The repository 'http://m bookworm InRelease' is not signed.", False),
        ("E: Failed to fetch http://m/InRelease  404  Not Found [IP: 192.0.2.1 80]", False),
    ],
)
def test_troubles_that_pass_are_waited_for(
    says: str, passes: bool, tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, run = [], Apt.run

    def troubled(self: Apt, program: str, *arguments: str, **options: str) -> str:
        if arguments[0] == "update":
            asked.append(program)
            if len(asked) == 1:
                raise ResolutionError(f"apt cannot resolve packages for debian-12-x86_64 ({says}): try again.")
        return run(self, program, *arguments, **options)

    monkeypatch.setattr(Apt, "run", troubled)
    monkeypatch.setattr("airgap.sources.apt_root._PAUSES", (0.0, 0.0))
    _write_archive(tmp_path / "debian", sign_with=key)
    if passes:
        assert _source(tmp_path, key).resolve(["leaf"], DEBIAN_12)
    else:
        with pytest.raises(ResolutionError, match=re.escape(says)):
            _source(tmp_path, key).resolve(["leaf"], DEBIAN_12)
    assert len(asked) == (2 if passes else 1)


def test_when_no_mirror_works_all_are_named(tmp_path: Path, key: Path) -> None:
    mirrors = {"*": [(tmp_path / name).as_uri() for name in ("one", "two")]}
    with pytest.raises(ResolutionError, match=r"None of the archives .*/one, .*/two can be used"):
        AptSource(tmp_path / "cache", mirrors, keyrings=key / "keyrings").resolve(["leaf"], DEBIAN_12)


def _vendor(tmp_path: Path, key: Path, **fields: object) -> AptRepository:
    """Write a repository with a newer leaf, and with a tool that needs a library of its own."""
    root = tmp_path / "vendor"
    stanzas = [
        _stanza(root / "pool", "tool", "5", "Depends: tool-library, base\n"),
        _stanza(root / "pool", "tool-library", "5"),
        _stanza(root / "pool", "leaf", "1:9"),
    ]
    _write_suite(root, "stable", stanzas, key, architecture="amd64", components=("main",))
    keyring = key / "keyrings" / "debian-archive-keyring.gpg"
    return AptRepository(root.as_uri(), "stable", keyring, components=("main",), **fields)  # type: ignore[arg-type]


def test_what_is_wanted_of_another_repository_comes_from_there_and_the_rest_from_the_distribution(
    tmp_path: Path, key: Path
) -> None:
    _write_archive(tmp_path / "debian", sign_with=key)
    (tmp_path / "debian-security").symlink_to("debian")
    mirrors = {"*": [(tmp_path / "debian").as_uri()]}
    repositories = [_vendor(tmp_path, key, packages=("tool",), targets=("debian-12",))]
    source = AptSource(tmp_path / "cache", mirrors, None, repositories, key / "keyrings")
    versions = {download.name: download.version for download in source.resolve(["leaf"], DEBIAN_12)}
    assert versions["tool"] == versions["tool-library"] == "5"
    assert versions["base"] == versions["leaf"] == "1:2.0+x"


def test_without_names_another_repository_counts_as_much_as_the_distribution(tmp_path: Path, key: Path) -> None:
    _write_archive(tmp_path / "debian", sign_with=key)
    (tmp_path / "debian-security").symlink_to("debian")
    mirrors = {"*": [(tmp_path / "debian").as_uri()]}
    source = AptSource(tmp_path / "cache", mirrors, None, [_vendor(tmp_path, key)], key / "keyrings")
    versions = {download.name: download.version for download in source.resolve(["leaf"], DEBIAN_12)}
    assert versions["leaf"] == "1:9"


def test_a_flat_repository(tmp_path: Path, key: Path) -> None:
    _write_archive(tmp_path / "debian", sign_with=key)
    (tmp_path / "debian-security").symlink_to("debian")
    flat = tmp_path / "flat"
    packages = "\n".join(
        [_stanza(flat / "pool", "tool", "5", "Depends: base\n"), _stanza(flat / "pool", "leaf", "1:9")]
    )
    (flat / "Packages").write_text(packages)
    digest = hashlib.sha256(packages.encode()).hexdigest()
    (flat / "Release").write_text(
        f"Origin: Flat\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n {digest} {len(packages)} Packages\n"
    )
    gpg(key, "--clearsign", "--output", str(flat / "InRelease"), str(flat / "Release"))
    keyring = key / "keyrings" / "debian-archive-keyring.gpg"
    repository = AptRepository(flat.as_uri(), "./", keyring, packages=("tool",))
    mirrors = {"*": [(tmp_path / "debian").as_uri()]}
    source = AptSource(tmp_path / "cache", mirrors, None, [repository], key / "keyrings")
    versions = {download.name: download.version for download in source.resolve(["leaf"], DEBIAN_12)}
    assert versions == {"tool": "5", "leaf": "1:2.0+x", "base": "1:2.0+x"}


def test_a_repository_is_for_the_targets_it_names(tmp_path: Path, key: Path) -> None:
    repository = _vendor(tmp_path, key, targets=("debian-13", "ubuntu-22.04-aarch64"))
    names = ("debian-13", "debian-13-aarch64", "ubuntu-22.04-aarch64", "ubuntu-22.04", "debian-12")
    assert [repository.is_for(parse_target(name)) for name in names] == [True, True, True, False, False]


def test_a_repository_without_its_keyring_is_refused(tmp_path: Path, key: Path) -> None:
    repository = replace(_vendor(tmp_path, key), signed_by=tmp_path / "no.gpg")
    source = AptSource(tmp_path / "cache", {"*": ["file:///nowhere"]}, None, [repository], key / "keyrings")
    with pytest.raises(ResolutionError, match=r"no\.gpg of the repository .* is not there: .*signed-by"):
        source.resolve(["leaf"], DEBIAN_12)


def test_a_repository_signed_with_another_key_is_refused(tmp_path: Path, key: Path) -> None:
    _write_archive(tmp_path / "debian", sign_with=key)
    (tmp_path / "debian-security").symlink_to("debian")
    other = tmp_path / "gpg"
    other.mkdir(mode=0o700)
    gpg(other, "--passphrase", "", "--quick-generate-key", "other@test.invalid", "ed25519", "sign", "never")
    gpg(other, "--output", str(tmp_path / "other.gpg"), "--export")
    repository = replace(_vendor(tmp_path, key), signed_by=tmp_path / "other.gpg")
    mirrors = {"*": [(tmp_path / "debian").as_uri()]}
    source = AptSource(tmp_path / "cache", mirrors, None, [repository], key / "keyrings")
    with pytest.raises(ResolutionError, match="keyring package"):
        source.resolve(["leaf"], DEBIAN_12)


def test_apt_is_told_of_the_proxy_and_the_authorities(tmp_path: Path) -> None:
    network = NetworkOptions(proxy="http://p.invalid:3128", no_proxy=("near.invalid",), ca_file=Path("/ca.pem"))
    with private_root(tmp_path, DEBIAN_12, network) as configuration:
        text = configuration.read_text()
    for line in (
        'Acquire::http::Proxy "http://p.invalid:3128";',
        'Acquire::https::Proxy "http://p.invalid:3128";',
        'Acquire::http::Proxy::near.invalid "DIRECT";',
        'Acquire::https::CAInfo "/ca.pem";',
    ):
        assert line in text
