from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from airgap.errors import ManifestError
from airgap.have import Have, HaveEnvironment, HaveFlow, HaveNodes, HavePackage, HaveSystem

HAVE = Have(
    created_by="tests",
    prefect_version="3.8.8",
    targets=("debian-13-x86_64", "debian-12-x86_64"),
    packages=(
        HavePackage("mirror/pypi/b-1-py3-none-any.whl", "b" * 64, 7, "MIT"),
        HavePackage("mirror/apt/debian-12-x86_64/a_1_all.deb", "a" * 64, 5),
    ),
    contents=frozenset({"d" * 64, "c" * 64}),
    environments=(HaveEnvironment("prefect", "debian-12-x86_64", "e" * 64),),
    flows=(HaveFlow("my-workflow", "my_workflow", "demo-0123456789ab", "cpu-pool"), HaveFlow("a", "b", "c")),
    systems=(
        HaveSystem(
            "debian-12-x86_64",
            {"acl:amd64": "2.3.1-3", "libssl3:amd64": "1:3.0~x+deb12u1"},
            (HaveNodes(2, {}), HaveNodes(1, {"nginx:amd64": "1.22", "acl:amd64": "2.4"}, ("libssl3:amd64",))),
        ),
    ),
)


def changed(**changes: Any) -> str:
    return json.dumps(json.loads(HAVE.to_json()) | changes)


def test_what_is_written_is_read() -> None:
    read = Have.from_json(HAVE.to_json(), "have.json")
    assert read.to_json() == HAVE.to_json()
    assert set(read.packages) == set(HAVE.packages)
    assert read.contents == HAVE.contents
    assert set(read.flows) == set(HAVE.flows)
    assert (read.environments, read.prefect_version) == (HAVE.environments, "3.8.8")


def test_the_order_in_which_things_were_found_does_not_show() -> None:
    (system,) = HAVE.systems
    other = replace(
        HAVE,
        targets=HAVE.targets[::-1],
        packages=HAVE.packages[::-1],
        flows=HAVE.flows[::-1],
        systems=(replace(system, common=dict(reversed(system.common.items())), nodes=system.nodes[::-1]),),
    )
    assert other.to_json() == HAVE.to_json()


def test_a_package_of_unknown_licence_has_none_in_the_file() -> None:
    assert json.loads(HAVE.to_json())["packages"]["mirror/apt/debian-12-x86_64/a_1_all.deb"] == {
        "sha256": "a" * 64,
        "size": 5,
    }


def test_each_kind_of_node_has_what_most_have_but_for_where_it_differs() -> None:
    (system,) = HAVE.systems
    assert list(system.statuses()) == [
        system.common,
        {"acl:amd64": "2.4", "nginx:amd64": "1.22"},
    ]


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        "{}",
        changed(packages={"etc/passwd": {"sha256": "a" * 64, "size": 1}}),
        changed(packages={"mirror/../x": {"sha256": "a" * 64, "size": 1}}),
        changed(packages={"mirror/x": {"sha256": "A" * 64, "size": 1}}),
        changed(packages={"mirror/x": {"sha256": "a" * 64, "size": -1}}),
        changed(packages={"mirror/x": {"sha256": "a" * 64}}),
        changed(packages={"mirror/x": "a" * 64}),
        changed(contents=["a"]),
        changed(contents=[1]),
        changed(targets=[1]),
        changed(flows=[{"flow": "a"}]),
        changed(systems=[{"target": "t", "common": {"acl": "1"}, "nodes": []}]),
        changed(systems=[{"target": "t", "common": {"acl:amd64": "1\nStatus: x"}, "nodes": []}]),
        changed(systems=[{"target": "t", "common": {}, "nodes": [{"count": 1, "packages": {}, "without": [1]}]}]),
        changed(systems=[{"target": "t", "common": {}, "nodes": [{"count": "many", "packages": {}, "without": []}]}]),
    ],
)
def test_what_does_not_have_the_documented_form_is_refused(text: str) -> None:
    with pytest.raises(ManifestError, match=r"^carried\.json does not say what a site has .*: write it again"):
        Have.from_json(text, "carried.json")


def test_another_format_version_is_refused() -> None:
    with pytest.raises(ManifestError, match="format version 2, this software reads 1"):
        Have.from_json(changed(format_version=2), "have.json")
