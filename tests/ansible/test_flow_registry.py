"""The controller's registry of flows keeps versions as a whole, and knows which ones new runs may start with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible.module_utils.flow_registry import (
    CURRENT,
    NEXT,
    KeptDeployment,
    Registry,
    RegistryError,
    common_name,
    discard,
    leftovers,
    listing,
    marker_of,
    point,
    store,
    version_of,
)

TARGET = "debian-12-x86_64"


def record(digest: str, deployed: str = "", **more: Any) -> dict[str, Any]:
    environments = {TARGET: {"description": "demo.json", "directory": "demo-0123456789ab", "digest": "0" * 64}}
    version = version_of(listing(digest, {TARGET: "0" * 64}))
    return {
        "format_version": 2,
        "flow": "demo",
        "deployment": "daily",
        "full_name": "my-flow/daily",
        "version": version,
        "digest": digest,
        "files": ["main.py"],
        "environments": environments,
        "deployed": deployed,
        **more,
    }


@pytest.fixture
def deployment(tmp_path: Path) -> KeptDeployment:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/main.py").write_text("pass\n")
    (tmp_path / "demo.json").write_text("{}")
    return Registry(tmp_path / "flows").deployment("demo", "daily")


def keep(deployment: KeptDeployment, digest: str, deployed: str = "") -> str:
    root = deployment.directory.parents[2]
    kept = record(digest, deployed)
    store(deployment, kept, root / "source", [root / "demo.json"])
    return str(kept["version"])


def registry_of(deployment: KeptDeployment) -> Registry:
    return Registry(deployment.directory.parents[1])


def test_a_version_follows_from_code_and_environments() -> None:
    assert listing("a", {"y": "2", "x": "1"}) == "code a\nenvironment x 1\nenvironment y 2\n"
    texts = [listing("a", {"x": "1"}), listing("b", {"x": "1"}), listing("a", {"x": "2"}), listing("a", {"y": "1"})]
    assert len({version_of(text) for text in texts}) == 4


def test_versions_are_listed_the_newest_first(deployment: KeptDeployment) -> None:
    names = [keep(deployment, digest, f"2026-01-0{day}") for day, digest in ((2, "b"), (3, "c"), (1, "a"))]
    assert [kept.version for kept in deployment.versions()] == [names[1], names[0], names[2]]


def test_what_is_switched_to_is_needed_as_well(deployment: KeptDeployment) -> None:
    old, new = keep(deployment, "a", "1"), keep(deployment, "b", "2")
    point(deployment, CURRENT, old)
    assert [kept.version for kept in deployment.needed()] == [old]
    point(deployment, NEXT, new)
    assert [kept.version for kept in deployment.needed()] == [old, new]
    point(deployment, CURRENT, new)
    assert [kept.version for kept in deployment.needed()] == [new]


def test_old_versions_are_superfluous_but_the_current_one_stays(deployment: KeptDeployment) -> None:
    names = [keep(deployment, str(day), f"2026-01-0{day}") for day in range(1, 6)]
    point(deployment, CURRENT, names[4])
    assert {kept.version for kept in deployment.superfluous(3)} == {*names[:2]}
    assert {kept.version for kept in deployment.superfluous(1)} == {*names[:4]}
    # Gone back to the oldest: it stays, however old it is.
    point(deployment, CURRENT, names[0])
    assert names[0] not in {kept.version for kept in deployment.superfluous(2)}


def test_nodes_keep_what_any_deployment_of_the_flow_has(deployment: KeptDeployment) -> None:
    version = keep(deployment, "a")
    other = registry_of(deployment).deployment("demo", "weekly")
    other_version = keep(other, "b")
    assert registry_of(deployment).kept() == {"demo": sorted([version, other_version])}


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        (None, "ffff", "no version ffff: there are"),
        ("weekly", "", "no deployment weekly: it has daily"),
        (None, "", "no version : there are"),
    ],
)
def test_what_there_is_not_is_answered_with_what_there_is(
    deployment: KeptDeployment, name: str | None, version: str, words: str
) -> None:
    keep(deployment, "a")
    with pytest.raises(RegistryError, match=words):
        registry_of(deployment).choose_version("demo", name, version)


def test_a_beginning_suffices_and_prefects_name_too(deployment: KeptDeployment) -> None:
    version = keep(deployment, "a")
    for flow in ("demo", "my-flow"):
        assert registry_of(deployment).choose_version(flow, None, version[:4])[1].version == version


def test_the_version_alone_says_which_flow_it_is(deployment: KeptDeployment) -> None:
    version = keep(deployment, "a")
    keep(registry_of(deployment).deployment("other", "daily"), "b")
    assert registry_of(deployment).choose_version(None, None, version)[0].flow == "demo"
    with pytest.raises(RegistryError, match="No flow has a version ffff"):
        registry_of(deployment).choose_version(None, None, "ffff")
    keep(registry_of(deployment).deployment("third", "daily"), "a")
    with pytest.raises(RegistryError, match="The flows demo, third have a version"):
        registry_of(deployment).choose_version(None, None, version)


def test_several_deployments_are_named(deployment: KeptDeployment) -> None:
    version = keep(deployment, "a")
    keep(registry_of(deployment).deployment("demo", "weekly"), "a")
    with pytest.raises(RegistryError, match=r"several deployments \(daily, weekly\): say which one"):
        registry_of(deployment).choose_version("demo", None, version)


def test_an_unknown_flow_is_answered_with_the_known(deployment: KeptDeployment) -> None:
    keep(deployment, "a")
    with pytest.raises(RegistryError, match="No flow other is deployed: the controller knows demo"):
        registry_of(deployment).choose("other")


def test_a_removal_that_was_interrupted_can_be_repeated(deployment: KeptDeployment) -> None:
    keep(deployment, "a")
    discard([deployment.directory])
    assert registry_of(deployment).choose("demo") == []
    with pytest.raises(RegistryError, match="The flow demo was removed"):
        registry_of(deployment).choose_version("demo", None, "a")


def test_the_form_of_an_earlier_release_is_read(deployment: KeptDeployment) -> None:
    deployment.directory.mkdir(parents=True)
    old = {"flow": "demo", "deployment": "daily", "format_version": 1, "digest": "0123456789abcdef", "files": []}
    environments = {"debian-12-x86_64": {"directory": "demo-aaaaaaaaaaaa"}, "debian-13-x86_64": {"directory": "demo-b"}}
    (deployment.directory / "record.json").write_text(json.dumps(old | {"environments": environments}))
    (kept,) = deployment.needed()
    assert (kept.version, kept.directory) == ("0123456789ab", deployment.directory)
    assert marker_of(kept.record) == "0123456789abcdef\n"
    assert str(common_name(kept.record)).startswith("demo-")
    with pytest.raises(RegistryError, match="kept no settings"):
        registry_of(deployment).choose_version("demo", None, "0123")


def test_a_broken_record_is_named(deployment: KeptDeployment) -> None:
    version = keep(deployment, "a")
    (deployment.directory / "versions" / version / "record.json").write_text("[]")
    with pytest.raises(RegistryError, match="is no record of a flow"):
        deployment.versions()


def test_what_an_interrupted_recording_left_is_found(deployment: KeptDeployment) -> None:
    keep(deployment, "a")
    (deployment.directory / "versions/.half").mkdir()
    assert len(deployment.versions()) == 1
    assert [path.name for path in leftovers(deployment.directory / "versions")] == [".half"]
