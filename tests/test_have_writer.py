"""What a site says of itself: everything that a delta may rely on, and nothing that nobody should know."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from sites import TARGET, deb, deploy, digest, tree, wheel, write_bundle

from airgap.errors import InstallationError
from airgap.have import Have
from airgap.have_writer import NodeStatus, describe, group
from airgap.populate import Contents, finish, populate
from airgap.site import Site, read_manifest


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", {**wheel("a"), **deb("d")}, {"README.md": b"read me"})


@pytest.fixture
def site(bundle: Path, tmp_path: Path) -> Site:
    found = Site(tmp_path / "pag")
    populate(bundle, found, Contents({}))
    finish(bundle, found)
    deploy(found.root, "report", wheel("e"))
    return found


def test_it_names_everything_that_a_delta_may_rely_on(site: Site, bundle: Path) -> None:
    have = describe(site, [])
    packages = {package.path: package.sha256 for package in have.packages}
    for file in read_manifest(bundle).files:
        assert packages.get(file.path) == file.sha256 or file.sha256 in have.contents
    assert next(iter(wheel("e"))) in packages
    assert have.prefect_version == "3.8.8"
    assert have.targets == (TARGET.name,)
    assert {environment.name for environment in have.environments} == {"prefect", "report"}
    (flow,) = have.flows
    assert (flow.flow, flow.deployment, flow.work_pool) == ("report", "daily", "cpu-pool")
    assert flow.environment.startswith("report-")


def test_files_are_hashed_now(site: Site) -> None:
    path = next(iter(wheel("a")))
    (site.root / path).unlink()
    (site.root / path).write_bytes(b"damaged")
    stored = site.stored(digest(b"read me"))
    stored.write_bytes(b"damaged")
    have = describe(site, [])
    assert {package.path: package.sha256 for package in have.packages}[path] == digest(b"damaged")
    assert digest(b"read me") not in have.contents


def test_the_same_site_gives_the_same_text_in_any_order_of_nodes(site: Site) -> None:
    nodes = [NodeStatus(TARGET.name, {"acl:amd64": "2", f"n{number}:all": "1"}) for number in range(5)]
    before = tree(site.root)
    text = describe(site, nodes).to_json()
    assert describe(site, nodes[::-1]).to_json() == text
    assert tree(site.root) == before
    assert Have.from_json(text, "test").to_json() == text


def test_equal_nodes_are_counted() -> None:
    base = {"acl:amd64": "2.3.1-3", "bash:amd64": "5.2"}
    statuses = [base, base | {"nginx:amd64": "1.22"}, base, {"acl:amd64": "2.4"}]
    (system,) = group([NodeStatus("t", status) for status in statuses])
    assert dict(system.common) == base
    assert sorted(kind.count for kind in system.nodes) == [1, 1, 2]
    told = [status for status, kind in zip(system.statuses(), system.nodes, strict=True) for _ in range(kind.count)]
    assert sorted(map(sorted, (status.items() for status in told))) == sorted(
        map(sorted, (status.items() for status in statuses))
    )
    assert [found.target for found in group([NodeStatus("u", {}), NodeStatus("t", base)])] == ["t", "u"]


def test_two_hundred_nodes_that_differ_a_little_take_a_few_hundred_kibibytes(site: Site) -> None:
    chance = random.Random(1)  # noqa: S311
    base = {f"package-{number}:amd64": f"1:{number}.2-3+deb12u1" for number in range(600)}
    nodes = []
    for _ in range(200):
        packages = dict(base)
        for name in chance.sample(sorted(base), 10):
            packages[name] += "~bpo1"
        for name in chance.sample(sorted(base), 10):
            del packages[name]
        nodes.append(NodeStatus(TARGET.name, packages))
    size = len(describe(site, nodes).to_json())
    print(f"200 nodes: {size} bytes")
    assert size < 400 * 1024


def test_no_bundle_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InstallationError, match=r"run install-pag-controller\.sh"):
        describe(Site(tmp_path), [])
