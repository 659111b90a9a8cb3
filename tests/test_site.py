"""What is in use on the controller, as its records say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sites import TARGET, deploy, wheel, write_bundle

from airgap.errors import InstallationError, ManifestError
from airgap.populate import Contents, finish, populate
from airgap.site import Site, read_manifest


@pytest.fixture
def site(tmp_path: Path) -> Site:
    found = Site(tmp_path / "pag")
    for version in ("1", "2"):
        bundle = write_bundle(tmp_path / version, wheel(f"a{version}"), version=version)
        populate(bundle, found, Contents({}))
        finish(bundle, found)
    return found


def test_the_environments_of_all_kept_bundles_are_found_by_content(site: Site) -> None:
    found = {used.user: used.environment.wheels[0].name for used in site.bundle_environments()}
    assert found == {
        "the environment prefect of bundle 1": "a1",
        "the environment prefect of bundle 2": "a2",
    }


def test_a_site_of_before_files_were_kept_by_content(site: Site) -> None:
    for path in [path for path in site.files.rglob("*") if path.is_file()]:
        path.unlink()
    for kept in site.kept():
        for path in kept.path.iterdir():
            path.unlink()
        kept.path.rmdir()
    assert [used.user for used in site.bundle_environments()] == ["the environment prefect of bundle 2"]


def test_manifests_of_the_last_bundles(site: Site) -> None:
    assert [manifest.bundle_version for manifest in site.manifests()] == ["1", "2"]
    assert [manifest.bundle_version for manifest in site.manifests(1)] == ["2"]


def test_a_deployed_flows_environment_is_in_use(site: Site) -> None:
    deploy(site.root, "report", wheel("e"))
    (used,) = site.flow_environments()
    assert used.user == "the deployed flow report/daily"
    assert used.environment.wheels[0].name == "e"


def test_every_kept_version_of_a_flow_is_in_use(site: Site) -> None:
    for name in ("e", "f"):
        deploy(site.root, "report", wheel(name))
        directory = site.root / "flows/report/daily"
        record = json.loads((directory / "record.json").read_text())
        (directory / "record.json").write_text(json.dumps(record | {"version": name}))
        directory.rename(site.root / f"flows/{name}")
    for name in ("e", "f"):
        (site.root / "flows/report/daily/versions").mkdir(exist_ok=True, parents=True)
        (site.root / f"flows/{name}").rename(site.root / f"flows/report/daily/versions/{name}")
    (site.root / "flows/report/daily/current").symlink_to("versions/e")
    assert {used.user for used in site.flow_environments()} == {
        "the deployed flow report/daily, version e",
        "the deployed flow report/daily, version f",
    }


@pytest.mark.parametrize("damage", ["{", "[]", '{"environments": {}', '{"environments": [1]}'])
def test_a_record_that_cannot_be_read_is_named(site: Site, damage: str) -> None:
    deploy(site.root, "report", wheel("e"))
    record = site.root / "flows/report/daily/record.json"
    record.write_text(damage)
    with pytest.raises(InstallationError, match=r"report/daily/record\.json is no record"):
        list(site.flow_records())


def test_a_record_without_its_description_is_named(site: Site) -> None:
    deploy(site.root, "report", wheel("e"))
    (description,) = (site.root / "flows/report/daily").glob(f"*.{TARGET.name}.json")
    description.unlink()
    with pytest.raises(InstallationError, match="is missing: deploy the flow again"):
        list(site.flow_records())


def test_no_bundle_is_no_bundle(tmp_path: Path) -> None:
    assert Site(tmp_path).installed() is None
    assert Site(tmp_path).kept() == []
    with pytest.raises(ManifestError, match="is no unpacked bundle"):
        read_manifest(tmp_path)
