"""The module that tells deployed flows' versions of Prefect: of those that run, not of those that are kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import flow_prefect_versions
import pytest
from sites import TARGET, environment


@pytest.fixture(autouse=True)
def _same_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def keep(root: Path, name: str, prefect: str | None) -> Path:
    """Keep a version of the flow ``cows``, with an environment that has Prefect's version 1, or no Prefect."""
    directory = root / "flows/cows/daily/versions" / name
    directory.mkdir(parents=True)
    packages = {f"mirror/pypi/{prefect}-1-py3-none-any.whl": b"wheel"} if prefect else {}
    (directory / "cows.json").write_text(environment("cows", packages).to_json())
    record = {"flow": "cows", "deployment": "daily", "full_name": "my-workflow/daily"}
    record |= {"environments": {TARGET.name: {"description": "cows.json"}}}  # type: ignore[dict-item]
    (directory / "record.json").write_text(json.dumps(record))
    return directory


def test_only_the_current_version_counts(tmp_path: Path) -> None:
    keep(tmp_path, "000000000001", "prefect")
    current = keep(tmp_path, "000000000002", None)
    assert flow_prefect_versions.versions(tmp_path) == []
    (current.parents[1] / "current").symlink_to("versions/000000000001")
    assert flow_prefect_versions.versions(tmp_path) == [{"flow": "my-workflow/daily", "version": "1"}]


def test_a_version_that_is_about_to_run_counts_too(tmp_path: Path) -> None:
    keep(tmp_path, "000000000001", "prefect")
    current = keep(tmp_path, "000000000002", None)
    (current.parents[1] / "current").symlink_to("versions/000000000002")
    (current.parents[1] / "next").symlink_to("versions/000000000001")
    assert {"flow": "my-workflow/daily", "version": "1"} in flow_prefect_versions.versions(tmp_path)
