from __future__ import annotations

from pathlib import Path

import pytest
from debs import make_deb
from wheels import make_wheel

from airgap.cache import Cache
from airgap.licences import read_licences
from airgap.manifest import Kind
from airgap.progress import Progress
from airgap.sources.interface import Download

COPYRIGHT = (
    "Format: https://policy.example/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nCopyright: me\nLicense: {}\n"
)


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.files = self.bytes = 0

    def note(self, text: str) -> None:
        self.notes.append(text)

    def received(self, size: int) -> None:
        self.bytes += size

    def finished_file(self) -> None:
        self.files += 1


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def package(
    cache: Cache, kind: Kind, name: str, content: bytes, *, licence: str | None = None, target: str = "debian-12-x86_64"
) -> Download:
    path = {"deb": f"mirror/apt/{target}/{name}_1_all.deb", "wheel": f"mirror/pypi/{name}-1-py3-none-any.whl"}.get(
        kind, f"mirror/conda/noarch/{name}-1-0.conda"
    )
    return Download("", path, cache.store(content).name, len(content), kind, name, "1", licence)


def deb(cache: Cache, directory: Path, name: str, **options: dict[str, str]) -> Download:
    return package(cache, "deb", name, make_deb(directory, name, **options).read_bytes())  # type: ignore[arg-type]


def licences(packages: list[Download], cache: Cache, progress: Progress | None = None) -> dict[str, str | None]:
    return {
        path.rpartition("/")[2].partition("_")[0].partition("-1")[0]: licence
        for path, licence in read_licences(packages, cache, progress or Progress()).items()
    }


def test_every_kind_in_spdx(cache: Cache, tmp_path: Path) -> None:
    packages = [
        deb(cache, tmp_path, "acl", files={"usr/share/doc/acl/copyright": COPYRIGHT.format("GPL-2+")}),
        package(cache, "wheel", "a", make_wheel("a", "1", metadata="License: MIT License\n")),
        package(cache, "wheel", "b", make_wheel("b", "1", metadata="")),
        package(cache, "conda", "c", b"not opened", licence="bsd-3-clause"),
        package(cache, "conda", "d", b"not opened either"),
    ]
    progress = Notes()
    assert licences(packages, cache, progress) == {
        "acl": "GPL-2.0-or-later", "a": "MIT", "b": None, "c": "BSD-3-Clause", "d": None,
    }  # fmt: skip
    assert progress.notes == []
    assert (progress.files, progress.bytes) == (3, sum(package.size or 0 for package in packages[:3]))


def test_a_debian_package_that_links_to_anothers_copyright_file(cache: Cache, tmp_path: Path) -> None:
    packages = [
        deb(cache, tmp_path, "lib", links={"usr/share/doc/lib": "middle"}),
        deb(cache, tmp_path, "middle", links={"usr/share/doc/middle/copyright": "../base/copyright"}),
        deb(cache, tmp_path, "base", files={"usr/share/doc/base/copyright": COPYRIGHT.format("Expat")}),
        deb(cache, tmp_path, "circle", links={"usr/share/doc/circle": "circle"}),
        deb(cache, tmp_path, "lost", links={"usr/share/doc/lost": "nowhere"}),
    ]
    assert licences(packages, cache) == {"lib": "MIT", "middle": "MIT", "base": "MIT", "circle": None, "lost": None}


def test_a_debian_package_that_links_to_one_that_stays_behind(cache: Cache, tmp_path: Path) -> None:
    lib = deb(cache, tmp_path, "lib", links={"usr/share/doc/lib": "base"})
    base = package(cache, "deb", "base", b"at the site", licence="MIT")
    assert read_licences([lib], cache, Progress(), [base]) == {lib.path: "MIT"}


def test_what_was_read_is_remembered_also_without_the_file(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = [
        deb(cache, tmp_path, "acl", files={"usr/share/doc/acl/copyright": COPYRIGHT.format("GPL-2+")}),
        package(cache, "wheel", "a", make_wheel("a", "1")),
    ]
    expected = licences(packages, cache)
    for path in (cache.root / "sha256").rglob("*/*"):
        path.unlink()
    monkeypatch.setattr("airgap.licences._read", None)
    assert licences(packages, cache) == expected == {"acl": "GPL-2.0-or-later", "a": "MIT"}


def test_without_the_file_the_source_knows(cache: Cache) -> None:
    known = package(cache, "wheel", "a", b"1", licence="MIT License")
    unknown = package(cache, "deb", "b", b"2")
    for path in (cache.root / "sha256").rglob("*/*"):
        path.unlink()
    assert licences([known, unknown], cache) == {"a": "MIT", "b": None}


def test_a_package_that_cannot_be_read_is_told_and_not_remembered(cache: Cache) -> None:
    broken = package(cache, "deb", "acl", b"!<arch>\nno package")
    for _ in range(2):
        progress = Notes()
        assert licences([broken], cache, progress) == {"acl": None}
        (note,) = progress.notes
        assert note.startswith("Licences not known, of 1: ")
        assert "acl" in note


def test_a_damaged_memory_is_read_again(cache: Cache) -> None:
    wheel = package(cache, "wheel", "a", make_wheel("a", "1"))
    licences([wheel], cache)
    (remembered,) = (cache.root / "licences").rglob("*.json")
    remembered.write_text("{")
    assert licences([wheel], cache) == {"a": "MIT"}
    assert "MIT" in remembered.read_text()
