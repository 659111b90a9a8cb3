"""The mirror's indexes describe all that is in the mirror, whatever brought it, and in whatever order."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from sites import TARGET, conda, deb, digest, environment, tree, wheel, write_bundle

from airgap.errors import ManifestError
from airgap.index_formats import parse_packages, parse_project, parse_repodata
from airgap.mirror_index import refresh


def _install(mirror: Path, bundle: Path) -> None:
    """Put a bundle's packages into the mirror, and refresh the indexes with its own."""
    indexes = {}
    for path in (path for path in (bundle / "mirror").rglob("*") if path.is_file()):
        name = path.relative_to(bundle / "mirror").as_posix()
        if path.suffix in (".whl", ".conda", ".deb"):
            (mirror / name).parent.mkdir(parents=True, exist_ok=True)
            (mirror / name).write_bytes(path.read_bytes())
        else:
            indexes[name] = path
    refresh(mirror, indexes)


def _indexes(mirror: Path) -> dict[str, tuple[str, int]]:
    return {name: entry for name, entry in tree(mirror).items() if Path(name).suffix not in (".whl", ".conda", ".deb")}


@pytest.fixture
def bundles(tmp_path: Path) -> list[Path]:
    return [
        write_bundle(tmp_path / "1", {**wheel("a"), **conda("c"), **deb("d")}),
        write_bundle(tmp_path / "2", {**wheel("b"), **conda("c"), **deb("e")}),
        write_bundle(tmp_path / "3", {**wheel("a"), **wheel("b"), **conda("f")}),
    ]


def test_one_bundle_in_an_empty_mirror_gives_its_own_indexes(bundles: list[Path], tmp_path: Path) -> None:
    _install(tmp_path / "mirror", bundles[0])
    assert tree(tmp_path / "mirror") == tree(bundles[0] / "mirror")


def test_any_order_of_bundles_gives_the_same_indexes(bundles: list[Path], tmp_path: Path) -> None:
    found = []
    for number, order in enumerate(itertools.permutations(bundles)):
        mirror = tmp_path / f"mirror-{number}"
        for bundle in order:
            _install(mirror, bundle)
        found.append(tree(mirror))
    assert all(other == found[0] for other in found)
    mirror = tmp_path / "mirror-0"
    assert set(parse_repodata((mirror / "conda/noarch/repodata.json").read_text())) == {"c-1-0.conda", "f-1-0.conda"}
    assert set(parse_packages((mirror / f"apt/{TARGET.name}/Packages").read_text())) == {"d_1_all.deb", "e_1_all.deb"}
    assert {path.parent.name for path in mirror.glob("pypi/simple/*/index.html")} == {"a", "b"}


def test_records_that_differ_are_settled_in_the_same_way_in_any_order(tmp_path: Path) -> None:
    found = []
    for number, orders in enumerate((("x", "y"), ("y", "x"))):
        mirror = tmp_path / str(number)
        for name in orders:
            bundle = write_bundle(tmp_path / name, conda("c"))
            index = bundle / "mirror/conda/noarch/repodata.json"
            document = json.loads(index.read_text())
            document["packages.conda"]["c-1-0.conda"]["note"] = name
            index.write_text(json.dumps(document))
            _install(mirror, bundle)
        found.append(_indexes(mirror))
    assert found[0] == found[1]


def test_of_two_contents_the_index_names_the_one_that_is_there(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    for number, content in enumerate((b"old", b"new", b"newer")):
        _install(mirror, write_bundle(tmp_path / str(number), {**wheel("a", content), **conda("c", content)}))
        assert parse_project((mirror / "pypi/simple/a/index.html").read_text()) == {
            "a-1-py3-none-any.whl": digest(content)
        }
        (record,) = parse_repodata((mirror / "conda/noarch/repodata.json").read_text()).values()
        assert record["sha256"] == digest(content)


def test_what_is_gone_or_about_to_go_leaves_the_indexes(bundles: list[Path], tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    for bundle in bundles:
        _install(mirror, bundle)
    (mirror / "pypi/a-1-py3-none-any.whl").unlink()
    doomed = mirror / "conda/noarch/c-1-0.conda"
    assert refresh(mirror, without=[doomed]) > 0
    assert doomed.exists()
    assert not (mirror / "pypi/simple/a").exists()
    assert b">a<" not in (mirror / "pypi/simple/index.html").read_bytes()
    assert set(parse_repodata((mirror / "conda/noarch/repodata.json").read_text())) == {"f-1-0.conda"}


def test_packages_of_packs_are_indexed(tmp_path: Path) -> None:
    packages = {**wheel("my_flow.lib"), **conda("c")}
    mirror = tmp_path / "mirror"
    for path, content in packages.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    refresh(mirror, environments=[environment("flow", packages)])
    page = mirror / "pypi/simple/my-flow-lib/index.html"
    name = "my_flow.lib-1-py3-none-any.whl"
    assert parse_project(page.read_text()) == {name: digest(packages[f"mirror/pypi/{name}"])}
    assert set(parse_repodata((mirror / "conda/noarch/repodata.json").read_text())) == {"c-1-0.conda"}
    assert refresh(mirror) == 0


def test_an_index_that_is_none_is_named(tmp_path: Path) -> None:
    index = tmp_path / "conda/noarch/repodata.json"
    index.parent.mkdir(parents=True)
    index.write_text("<html>")
    with pytest.raises(ManifestError, match=r"repodata\.json is no index"):
        refresh(tmp_path)
