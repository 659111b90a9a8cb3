"""The module that chooses the base environment: the installed bundle's, or that of an earlier one."""

from __future__ import annotations

import sys
from pathlib import Path

import base_environment
import pytest
from sites import TARGET, tree, wheel, write_bundle

from airgap.environment import Environment
from airgap.populate import Contents, finish, populate
from airgap.site import Site


@pytest.fixture(autouse=True)
def _same_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Two bundles, one after the other."""
    site = Site(tmp_path / "pag")
    for version in ("1", "2"):
        bundle = write_bundle(
            tmp_path / version, wheel("prefect", version.encode()) | wheel(f"a{version}"), version=version
        )
        populate(bundle, site, Contents({}))
        finish(bundle, site)
    return site


def directory(site: Site, version: str) -> str:
    (manifest,) = (bundle.manifest for bundle in site.kept() if bundle.manifest.bundle_version == version)
    (entry,) = manifest.environments
    return f"prefect-{entry.digest[:12]}"


def in_use(site: Site) -> str:
    return Environment.from_file(site.root / f"environments/prefect.{TARGET.name}.json").directory_name


def test_the_installed_one_is_there(site: Site) -> None:
    chosen = base_environment.choose(site.root, "prefect", None, check=False)
    assert not chosen["changed"]
    assert chosen["environments"] == {
        TARGET.name: {"directory": directory(site, "2"), "version": "1", "bundle": "2"},
    }


def test_an_earlier_one_comes_back_and_goes_again(site: Site) -> None:
    earlier = {TARGET.name: directory(site, "1")}
    before = tree(site.root)
    assert base_environment.choose(site.root, "prefect", earlier, check=True)["changed"]
    assert tree(site.root) == before
    chosen = base_environment.choose(site.root, "prefect", earlier, check=False)
    assert chosen["environments"][TARGET.name]["bundle"] == "1"
    assert in_use(site) == directory(site, "1")
    assert not base_environment.choose(site.root, "prefect", earlier, check=False)["changed"]
    assert base_environment.choose(site.root, "prefect", None, check=False)["changed"]
    assert tree(site.root) == before


def test_one_that_no_bundle_has_is_named(site: Site) -> None:
    with pytest.raises(base_environment.ChoiceError, match=r"prefect-000000000000 \(.*install the bundle that has it"):
        base_environment.choose(site.root, "prefect", {TARGET.name: "prefect-000000000000"}, check=False)
    assert in_use(site) == directory(site, "2")


def test_no_bundle_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(base_environment.ChoiceError, match=r"run install-pag-controller\.sh"):
        base_environment.choose(tmp_path, "prefect", None, check=False)
