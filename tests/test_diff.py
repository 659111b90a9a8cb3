from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from manifests import OTHER_TARGET, TARGET, environment, manifest, package

from airgap import cli
from airgap.diff import Difference, compare
from airgap.diff_report import markdown_report, summary, text_report
from airgap.errors import ManifestError
from airgap.manifest import Manifest, ManifestFile

PLAYBOOK = ManifestFile("ansible/main.yml", "1" * 64, 100, "ansible")
COLLECTION = ManifestFile("ansible/collections/x/a.py", "2" * 64, 50, "ansible", "ansible.posix", "2.1")
INDEX = ManifestFile("mirror/pypi/simple/index.html", "3" * 64, 100, "index")


def diff(old: Manifest, new: Manifest) -> Difference:
    return compare(old.to_json().encode(), new.to_json().encode())


def changes(old: list[ManifestFile], new: list[ManifestFile]) -> list[tuple[str, str, str | None, str | None]]:
    difference = diff(manifest(*old), manifest(*new))
    return [(package.name, package.what, package.old_version, package.new_version) for package in difference.packages]


def test_the_same_twice() -> None:
    described, entry = environment("prefect", package("wheel", "a", "1"))
    full = manifest(package("wheel", "a", "1"), PLAYBOOK, COLLECTION, environments=(entry,))
    assert described.digest == entry.digest
    difference = diff(full, full)
    assert difference.packages == difference.files == difference.environments == ()
    assert difference.targets_enter == difference.targets_leave == ()
    assert difference.new_bytes == 0


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([], [package("wheel", "a", "1")], [("a", "enters", None, "1")]),
        ([package("conda", "a", "1")], [], [("a", "leaves", "1", None)]),
        ([package("wheel", "a", "1.9")], [package("wheel", "a", "1.10")], [("a", "upgrade", "1.9", "1.10")]),
        ([package("deb", "a", "2-1")], [package("deb", "a", "2~rc1-1")], [("a", "downgrade", "2-1", "2~rc1-1")]),
        (
            [package("conda", "a", "1")],
            [package("conda", "a", "1", variant="h_1")],
            [("a", "changed", "1", "1")],
        ),
        # Environments may have a package in several versions: only those that come or go are changes.
        (
            [package("wheel", "a", "1"), package("wheel", "a", "2")],
            [package("wheel", "a", "2"), package("wheel", "a", "3")],
            [("a", "upgrade", "1", "3")],
        ),
        (
            [package("wheel", "a", "1")],
            [package("wheel", "a", "1"), package("wheel", "a", "2")],
            [("a", "enters", None, "2")],
        ),
        (
            [package("wheel", "a", "1")],
            [package("wheel", "a", "2"), package("wheel", "a", "3")],
            [("a", "leaves", "1", None), ("a", "enters", None, "2"), ("a", "enters", None, "3")],
        ),
        # The same Debian package for two releases is two packages.
        (
            [package("deb", "a", "1"), package("deb", "a", "5", target=OTHER_TARGET.name)],
            [package("deb", "a", "2"), package("deb", "a", "5", target=OTHER_TARGET.name)],
            [("a", "upgrade", "1", "2")],
        ),
    ],
)
def test_packages(
    old: list[ManifestFile], new: list[ManifestFile], expected: list[tuple[str, str, str | None, str | None]]
) -> None:
    assert changes(old, new) == expected


def test_a_collection_is_one_package_and_an_index_is_none() -> None:
    old = manifest(COLLECTION, INDEX)
    new = manifest(replace(COLLECTION, sha256="4" * 64, version="2.2"), replace(INDEX, sha256="5" * 64))
    difference = diff(old, new)
    (change,) = difference.packages
    assert (change.kind, change.name, change.what, change.bytes) == ("Ansible", "ansible.posix", "upgrade", 50)
    assert difference.files == ()


def test_files_environments_and_targets() -> None:
    _, before = environment("prefect", package("wheel", "prefect", "3.8.8"))
    _, after = environment("prefect", package("wheel", "prefect", "3.8.9"))
    flow = ManifestFile("flows/demo/main.py", "7" * 64, 10, "flow")
    difference = diff(
        manifest(PLAYBOOK, environments=(before,)),
        manifest(replace(PLAYBOOK, sha256="6" * 64), flow, targets=(TARGET, OTHER_TARGET), environments=(after,)),
    )
    assert [(change.path, change.what) for change in difference.files] == [
        ("ansible/main.yml", "changed"), ("flows/demo/main.py", "enters"),
    ]  # fmt: skip
    (change,) = difference.environments
    assert (change.what, change.old_prefect, change.new_prefect) == ("changed", "3.8.8", "3.8.9")
    assert (difference.targets_enter, difference.targets_leave) == ((OTHER_TARGET.name,), ())


def test_a_delta_is_compared_by_its_complete_state_and_only_what_it_carries_travels() -> None:
    old = manifest(package("wheel", "a", "1"), package("wheel", "b", "1"), package("wheel", "c", "1"))
    delta = manifest(
        package("wheel", "a", "2", size=77),
        base="ab" * 32,
        relies_on=(package("wheel", "b", "1"), package("wheel", "c", "2", size=5000)),
    )
    difference = diff(old, delta)
    assert [(change.name, change.what, change.bytes) for change in difference.packages] == [
        ("a", "upgrade", 77), ("c", "upgrade", 0),
    ]  # fmt: skip
    assert difference.new_bytes == difference.new.bytes == 77
    assert "a delta on abababababab" in summary(difference)


@pytest.fixture
def difference() -> Difference:
    old = [package("wheel", "a", "1"), package("deb", "libc6", "2.36-9"), package("wheel", "gone", "1"), PLAYBOOK]
    new = [
        package("wheel", "a", "2", licence="GPL-3.0-only"),
        package("deb", "libc6", "2.36-10"),
        package("conda", "new", "1", licence=None),
        replace(PLAYBOOK, sha256="6" * 64),
    ]
    return diff(manifest(*old), manifest(*new, bundle_version="2.0"))


def test_as_text(difference: Difference) -> None:
    lines = [" ".join(line.split()) for line in text_report(difference).splitlines()]
    assert "1 package in, 1 out, 2 upgraded, 0 downgraded, 0 otherwise changed; 1 licence changed" in lines[0]
    assert "a upgrade 1 -> 2 1.0 kB MIT -> GPL-3.0-only" in lines
    assert "gone leaves 1 - MIT" in lines
    assert "libc6 debian-12-x86_64 upgrade 2.36-9 -> 2.36-10 1.0 kB MIT" in lines
    assert "new linux-64 enters 1 1.0 kB -" in lines
    assert "ansible/main.yml ansible changed 100 bytes" in lines


def test_as_markdown(difference: Difference) -> None:
    report = markdown_report(difference)
    assert report.startswith("# Bundle 1.2.3 to 2.0\n\nFrom bundle 1.2.3 (manifest ")
    assert "\n## PyPI packages\n\n| package | change | version | travels | licence |\n| --- |" in report
    assert "\n| a | upgrade | 1 -> 2 | 1.0 kB | MIT -> GPL-3.0-only |\n" in report
    assert "## Environments" not in report


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "manifest.json", tmp_path / "unpacked"
    old.write_text(manifest(package("wheel", "a", "1")).to_json())
    new.mkdir()
    (new / "manifest.json").write_text(manifest(package("wheel", "a", "2")).to_json())
    assert cli.main(["diff", str(old), str(new)]) == 0
    assert "1 -> 2" in capsys.readouterr().out
    assert cli.main(["diff", str(old), str(new), "--format", "markdown"]) == 0
    assert "| a | upgrade |" in capsys.readouterr().out
    assert cli.main(["diff", str(old), str(new), "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["format_version"] == 1
    assert document["packages"][0]["what"] == "upgrade"
    assert cli.main(["diff", str(old), str(tmp_path / "nowhere")]) == 1
    assert "nowhere does not exist" in capsys.readouterr().err


def test_what_is_no_manifest() -> None:
    with pytest.raises(ManifestError, match="the new manifest is no bundle manifest"):
        compare(manifest().to_json().encode(), b"\xff{}")
