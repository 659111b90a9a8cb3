"""Whether an archive has changed: what apt said before counts only as long as every signed list is the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from debian_archive import SUITES, Deb, make_key, write_archive
from servers import serve

from airgap.network import NetworkOptions
from airgap.sources.apt import Answer, AptSource
from airgap.sources.apt_archives import AptRepository, find_archives
from airgap.sources.apt_releases import addresses_of, read_releases, still_there
from airgap.sources.apt_root import Apt, private_root
from airgap.targets import parse_target

DEBIAN_12 = parse_target("debian-12")
# 2037-01-01, in seconds since 1970.
VALID_UNTIL = 2114380800
DEBS = {"bookworm": [Deb("app", "1.0", "Depends: lib\n"), Deb("lib", "1.0")]}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_key(tmp_path_factory.mktemp("gpg"))


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory, key: Path) -> Path:
    """A directory with an archive, of which apt was asked once."""
    directory = tmp_path_factory.mktemp("world")
    write_archive(directory / "debian", DEBS, key)
    assert len(source(directory, key).resolve(["app"], DEBIAN_12)) == 2
    return directory


@pytest.fixture
def apt(tmp_path: Path) -> Iterator[Apt]:
    with private_root(tmp_path / "root", DEBIAN_12, NetworkOptions()) as configuration:
        yield Apt(configuration, DEBIAN_12)


@pytest.fixture
def no_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Apt, program: str, *arguments: str, **_options: str) -> str:
        raise AssertionError(f"{program} {arguments[0]} was run")

    monkeypatch.setattr(Apt, "run", run)


def source(directory: Path, key: Path, address: str = "") -> AptSource:
    places = [address or (directory / "debian").as_uri()]
    return AptSource(directory / "cache", {"*": places}, keyrings=key / "keyrings")


def in_release(directory: Path, suite: str) -> Path:
    return directory / "debian/dists" / suite / "InRelease"


def answer_of(directory: Path, key: Path) -> Answer:
    answer = source(directory, key).remembered(["app"], DEBIAN_12)
    assert answer is not None
    return answer


@pytest.mark.usefixtures("no_apt")
def test_apt_is_not_asked_again_for_the_same_lists(resolved: Path, key: Path) -> None:
    downloads = source(resolved, key).resolve(["app"], DEBIAN_12)
    assert tuple(downloads) == answer_of(resolved, key).downloads
    assert [download.name for download in downloads] == ["lib", "app"]
    with pytest.raises(AssertionError, match="apt-get update was run"):
        source(resolved, key).resolve(["lib"], DEBIAN_12)


@pytest.mark.usefixtures("no_apt")
@pytest.mark.parametrize("suite", SUITES)
def test_any_list_that_changed_is_seen(resolved: Path, key: Path, suite: str) -> None:
    before = in_release(resolved, suite).read_bytes()
    for change in (lambda path: path.write_bytes(before + b"\n"), lambda path: path.unlink()):
        change(in_release(resolved, suite))
        with pytest.raises(AssertionError, match="apt-get update was run"):
            source(resolved, key).resolve(["app"], DEBIAN_12)
        in_release(resolved, suite).write_bytes(before)
    assert source(resolved, key).is_current(answer_of(resolved, key), DEBIAN_12)


def test_lists_are_valid_until_the_first_of_them_is_not(tmp_path: Path, apt: Apt) -> None:
    (tmp_path / "a_InRelease").write_text("Suite: a\n\n")
    assert read_releases(tmp_path).valid_until is None
    (tmp_path / "b_InRelease").write_text("Suite: b\nValid-Until: Thu, 08 Jan 2037 00:00:00 UTC\n")
    (tmp_path / "c_InRelease").write_text("Suite: c\nValid-Until: Thu, 01 Jan 2037 00:00:00 UTC\n")
    releases = read_releases(tmp_path)
    assert releases.valid_until == VALID_UNTIL
    addresses = [path.as_uri() for path in tmp_path.glob("*InRelease")]
    assert still_there(releases, addresses, apt, tmp_path / "asked")
    assert not still_there(replace(releases, valid_until=1.0), addresses, apt, tmp_path / "asked")
    assert not still_there(releases, addresses[:2], apt, tmp_path / "asked")


def test_another_keyring_is_another_question(resolved: Path, tmp_path: Path) -> None:
    (tmp_path / "keyrings").mkdir()
    (tmp_path / "keyrings/debian-archive-keyring.gpg").write_bytes(b"")
    assert source(resolved, tmp_path).remembered(["app"], DEBIAN_12) is None


def test_over_http_and_from_one_that_is_gone(resolved: Path, key: Path, apt: Apt, tmp_path: Path) -> None:
    releases = answer_of(resolved, key).releases
    files = {f"/{suite}/InRelease": in_release(resolved, suite).read_bytes() for suite in SUITES}
    with serve(files=files) as server:
        addresses = [f"{server.url}{path}" for path in files]
        assert still_there(releases, addresses, apt, tmp_path / "asked")
        server.page = b"<html>please log in</html>"
        assert not still_there(releases, addresses, apt, tmp_path / "asked")
        server.page = None
        server.statuses[:] = [503]
        assert not still_there(releases, addresses, apt, tmp_path / "asked")
    assert not still_there(releases, addresses, apt, tmp_path / "asked")


def test_what_a_login_leads_to_is_not_remembered(tmp_path: Path, key: Path) -> None:
    write_archive(tmp_path / "debian", DEBS, key)
    with serve(files=files_below(tmp_path)) as server:
        address = server.url.replace("//", "//me:s3cr3t@") + "/debian"
        source(tmp_path, key, address).resolve(["app"], DEBIAN_12)
    assert not (tmp_path / "cache/remembered").exists()


def files_below(directory: Path) -> dict[str, bytes]:
    """Return what a server has of *directory*: links lead to directories here."""
    files = {f"/{path.relative_to(directory)}": path for path in directory.rglob("*") if path.is_file()}
    links = {name.replace("/debian/", "/debian-security/", 1): path for name, path in files.items()}
    return {name: path.read_bytes() for name, path in (files | links).items()}


def test_addresses_of_suites_and_of_flat_repositories() -> None:
    (archive,) = find_archives(DEBIAN_12, {"*": ["http://a.invalid/debian"]}, [])
    flat = AptRepository("http://f.invalid/x/", "./", Path("/k"))
    named = AptRepository("http://n.invalid", "stable", Path("/k"), ("main",))
    assert addresses_of(archive, [flat, named]) == [
        "http://a.invalid/debian/dists/bookworm/InRelease",
        "http://a.invalid/debian/dists/bookworm-updates/InRelease",
        "http://a.invalid/debian-security/dists/bookworm-security/InRelease",
        "http://f.invalid/x/./InRelease",
        "http://n.invalid/dists/stable/InRelease",
    ]
