"""What the playbooks learn about the bundle, from a manifest that the builder's own code wrote."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import bundle_facts
import pytest

from airgap.environment import Environment
from airgap.manifest import Manifest, ManifestEnvironment, ManifestTarget

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = "debian-12-x86_64"


@pytest.fixture(autouse=True)
def _same_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def _write_bundle(directory: Path, version: str = "1.2") -> None:
    toolkit = Environment("toolkit", TARGET, "system", "3.11", "linux-64")
    path = f"environments/toolkit.{TARGET}.json"
    (directory / "environments").mkdir(parents=True)
    (directory / path).write_text(toolkit.to_json())
    shutil.copytree(REPOSITORY / "airgap", directory / "airgap", ignore=shutil.ignore_patterns("__pycache__"))
    manifest = Manifest(
        bundle_version=version,
        created_by="test",
        interpreter="system",
        interpreter_reason="because.",
        targets=(ManifestTarget(TARGET, "debian-12", "bookworm", "x86_64", "3.11"),),
        environments=(ManifestEnvironment("toolkit", TARGET, "system", toolkit.digest, path),),
        files=(),
    )
    (directory / "manifest.json").write_text(manifest.to_json())


def test_facts_of_an_installed_bundle(tmp_path: Path) -> None:
    root = tmp_path / "pag"
    _write_bundle(root)
    facts = bundle_facts.read_bundle(root, tmp_path / "bundle" / "ansible")
    assert facts["version"] == "1.2"
    assert facts["targets"] == [TARGET]
    assert [environment["path"] for environment in facts["environments"]] == [
        str(root / f"environments/toolkit.{TARGET}.json")
    ]
    assert len(facts["toolkits"][TARGET]) == 12
    assert facts["playbooks_digest"] is None


def test_playbooks_of_another_bundle_show_another_digest(tmp_path: Path) -> None:
    _write_bundle(tmp_path / "pag")
    _write_bundle(tmp_path / "bundle", version="1.3")
    facts = bundle_facts.read_bundle(tmp_path / "pag", tmp_path / "bundle" / "ansible")
    assert facts["playbooks_version"] == "1.3"
    assert facts["playbooks_digest"] != facts["digest"]


def test_no_bundle_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(bundle_facts.BundleError, match=r"run install-pag-controller\.sh"):
        bundle_facts.read_bundle(tmp_path, tmp_path / "ansible")


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    _write_bundle(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(bundle_facts.BundleError, match="has format version 2"):
        bundle_facts.read_bundle(tmp_path, tmp_path / "ansible")
