from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from manifests import OTHER_TARGET, TARGET, environment, manifest, package

from airgap.environment import Environment
from airgap.manifest import Manifest, ManifestFile
from airgap.sbom import sbom_file
from airgap.sources.interface import Download

PREFECT = package("wheel", "prefect", "3.8.8", licence="Apache-2.0")
COWPY = package("wheel", "cowpy", "1.1", licence=None)
PYTHON = package("conda", "python", "3.12.1", licence="PSF-2.0 OR LicenseRef-Mine")
LIBC = package("deb", "libc6", "2.36-9+deb12u14", licence="refers to GPL-2, LGPL-2.1")
UBUNTUS = package("deb", "rsync", "1:3.2", target=OTHER_TARGET.name, variant="arm64")
EXTRA = package("wheel", "extra", "1")
COLLECTION = ManifestFile(
    "ansible/collections/ansible_collections/ansible/posix/README.md", "0" * 64, 5, "ansible", "ansible.posix", "2.1"
)
DOWNLOADS = (
    Download("https://me:s3cr3t@m/t/tk/", PYTHON.path, PYTHON.sha256, 1, "conda", "python", "3.12.1", channel="forge"),
    Download("", LIBC.path, LIBC.sha256, 1, "deb", "libc6", "2.36-9+deb12u14", record={"Source": "glibc (2.36-9)"}),
)


def document(described: Manifest, environments: list[Environment]) -> dict[str, Any]:
    # Its import takes a second, which every process that collects tests would wait.
    from cyclonedx.validation.json import JsonStrictValidator

    file = sbom_file(described, environments, DOWNLOADS)
    assert (file.path, file.kind) == ("sbom.cdx.json", "document")
    assert file.content == sbom_file(described, environments, DOWNLOADS).content
    text = file.content.decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@pytest.fixture
def bundle() -> tuple[Manifest, list[Environment]]:
    base, base_entry = environment("prefect", PYTHON, PREFECT)
    demo, demo_entry = environment("demo", PREFECT, COWPY, target=OTHER_TARGET)
    readme = ManifestFile("README.md", "1" * 64, 3, "document")
    files = (PREFECT, COWPY, PYTHON, LIBC, UBUNTUS, EXTRA, COLLECTION, readme)
    return manifest(*files, targets=(TARGET, OTHER_TARGET), environments=(base_entry, demo_entry)), [base, demo]


def test_covers_packages_of_every_kind(bundle: tuple[Manifest, list[Environment]]) -> None:
    loaded = document(*bundle)
    components = {component["bom-ref"]: component for component in loaded["components"]}
    assert [components[file.path]["purl"] for file in (PREFECT, COWPY, PYTHON, LIBC, UBUNTUS)] == [
        "pkg:pypi/prefect@3.8.8?file_name=prefect-3.8.8-py3-none-any.whl",
        "pkg:pypi/cowpy@1.1?file_name=cowpy-1.1-py3-none-any.whl",
        "pkg:conda/python@3.12.1?build=h_0&channel=forge&subdir=linux-64&type=conda",
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=debian-12&upstream=glibc%402.36-9",
        "pkg:deb/ubuntu/rsync@1:3.2?arch=arm64&distro=ubuntu-24.04",
    ]
    assert components[PREFECT.path]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert "licenses" not in components[COWPY.path]
    assert components[PYTHON.path]["licenses"] == [{"expression": "PSF-2.0 OR LicenseRef-Mine"}]
    assert components[LIBC.path]["licenses"] == [{"license": {"name": "refers to GPL-2, LGPL-2.1"}}]
    for file in (PREFECT, COWPY, PYTHON, LIBC, UBUNTUS):
        component = components[file.path]
        assert (component["name"], component["version"]) == (file.name, file.version)
        assert component["hashes"] == [{"alg": "SHA-256", "content": file.sha256}]
    assert components["ansible/collections/ansible.posix"]["version"] == "2.1"
    assert "README.md" not in components
    assert loaded["metadata"]["component"]["version"] == "1.2.3"
    assert [tool["name"] for tool in loaded["metadata"]["tools"]["components"]] == ["pag"]


def test_says_who_uses_what(bundle: tuple[Manifest, list[Environment]]) -> None:
    loaded = document(*bundle)
    uses = {entry["ref"]: sorted(entry.get("dependsOn", [])) for entry in loaded["dependencies"]}
    base, demo = "environments/prefect.debian-12-x86_64.json", "environments/demo.ubuntu-24.04-aarch64.json"
    assert uses[base] == sorted([PREFECT.path, PYTHON.path])
    assert uses[demo] == sorted([PREFECT.path, COWPY.path])
    assert uses[TARGET.name] == [LIBC.path]
    assert uses[OTHER_TARGET.name] == [UBUNTUS.path]
    root = loaded["metadata"]["component"]["bom-ref"]
    collection = "ansible/collections/ansible.posix"
    assert uses[root] == sorted([base, demo, TARGET.name, OTHER_TARGET.name, collection, EXTRA.path])


def test_a_deltas_covers_what_it_relies_on(bundle: tuple[Manifest, list[Environment]]) -> None:
    full, environments = bundle
    delta = replace(full, base="ab" * 32, files=(COWPY,), relies_on=tuple(set(full.files) - {COWPY}))
    loaded = document(delta, environments)
    carried = {
        component["bom-ref"]: property_["value"]
        for component in loaded["components"]
        for property_ in component.get("properties", [])
        if property_["name"] == "pag:carried"
    }
    assert carried == {
        COWPY.path: "true", PREFECT.path: "false", PYTHON.path: "false", LIBC.path: "false", UBUNTUS.path: "false",
        EXTRA.path: "false", "ansible/collections/ansible.posix": "false",
    }  # fmt: skip
    assert {"name": "pag:base", "value": "ab" * 32} in loaded["metadata"]["component"]["properties"]


def test_has_no_time_and_a_serial_number_of_its_contents(bundle: tuple[Manifest, list[Environment]]) -> None:
    full, environments = bundle
    loaded = document(full, environments)
    assert "timestamp" not in loaded["metadata"]
    assert loaded["serialNumber"].startswith("urn:uuid:")
    assert document(replace(full, bundle_version="2"), environments)["serialNumber"] != loaded["serialNumber"]
    reordered = replace(full, files=full.files[::-1], environments=full.environments[::-1])
    assert document(reordered, environments[::-1]) == loaded


def test_is_small(bundle: tuple[Manifest, list[Environment]]) -> None:
    full, environments = bundle
    content = sbom_file(full, environments, DOWNLOADS).content
    assert content.count(b"\n") == 1
    assert b"s3cr3t" not in content
    assert b"/t/tk" not in content
