from __future__ import annotations

import json
from dataclasses import replace

import pytest
from manifests import OTHER_TARGET, TARGET, environment, manifest, package

from airgap.inspection import describe, licence_table, to_json
from airgap.manifest import Manifest
from airgap.sbom import sbom_file
from airgap.verify import Bundle, Receipt

WHEEL = package("wheel", "prefect", "3.8.8", licence="Apache-2.0", size=2000)
DEB = package("deb", "acl", "2.3", licence=None)
RECEIPT = Receipt(
    bundle_version="1.2.3",
    digest="d" * 64,
    files=4,
    size=3000,
    signer="somebody",
    sbom="e" * 64,
    interpreter="system",
    targets=(TARGET.name,),
    base=None,
)


def inspected(described: Manifest) -> Bundle:
    return Bundle(described, RECEIPT)


@pytest.fixture
def full() -> Manifest:
    _, base = environment("prefect", WHEEL)
    _, demo = environment("demo", WHEEL)
    return manifest(WHEEL, DEB, environments=(base, demo))


def sbom(described: Manifest) -> bytes:
    environments = [environment(entry.name, WHEEL)[0] for entry in described.environments]
    return sbom_file(described, environments, ()).content


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_a_bundle(full: Manifest) -> None:
    told = lines(describe(inspected(full)))
    assert told[: len(str(RECEIPT).splitlines())] == lines(str(RECEIPT))
    assert "because of the test" in told
    assert f"prefect debian-12-x86_64 system 3.8.8 {full.environments[0].digest[:12]}" in told
    assert "kind files size" in told
    assert "wheel 1 2.0 kB" in told


def test_a_delta_tells_what_it_relies_on(full: Manifest) -> None:
    delta = replace(full, files=(DEB,), relies_on=(WHEEL,), base="ab" * 32)
    told = lines(describe(inspected(delta)))
    assert "kind files size relied on size" in told
    assert "wheel 0 0 bytes 1 2.0 kB" in told
    assert "deb 1 1.0 kB 0 0 bytes" in told


def test_licences(full: Manifest) -> None:
    assert lines(licence_table(inspected(full), sbom(full))) == [
        "package version kind licence used by",
        "acl 2.3 Debian - debian-12-x86_64",
        "prefect 3.8.8 PyPI Apache-2.0 demo, prefect",
    ]


def test_a_bundle_without_a_bill_of_materials_does_not_know_the_users(full: Manifest) -> None:
    assert "prefect 3.8.8 PyPI Apache-2.0 -" in lines(licence_table(inspected(full), None))


def test_users_are_told_by_target_where_there_are_several(full: Manifest) -> None:
    several = replace(full, targets=(TARGET, OTHER_TARGET))
    assert "demo.debian-12-x86_64, prefect.debian-12-x86_64" in licence_table(inspected(several), sbom(several))


def test_for_programs(full: Manifest) -> None:
    delta = replace(full, files=(DEB,), relies_on=(WHEEL,), base="ab" * 32)
    document = json.loads(to_json(inspected(delta), sbom(delta), licences=True))
    assert document["receipt"]["signer"] == "somebody"
    assert [(kind["kind"], kind["files"], kind["relied_on_bytes"]) for kind in document["kinds"]] == [
        ("deb", 1, 0), ("wheel", 0, 2000),
    ]  # fmt: skip
    acl, prefect = document["packages"]
    assert (acl["licence"], acl["carried"], acl["used_by"]) == (None, True, ["debian-12-x86_64"])
    assert (prefect["licence"], prefect["carried"], prefect["used_by"]) == ("Apache-2.0", False, ["demo", "prefect"])
    assert "packages" not in json.loads(to_json(inspected(delta), None, licences=False))
