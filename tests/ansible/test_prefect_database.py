"""The module that brings the server's schema to an environment's: which way it goes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import prefect_database
import pytest

OLD = ("aa01", "aa02")
NEW = (*OLD, "aa03", "aa04")


def environment(directory: Path, revisions: tuple[str, ...]) -> Path:
    """Return an environment whose Prefect has these revisions, one after the other."""
    versions = directory / "env/lib/python3.11/site-packages/prefect/server/database/_migrations/versions/postgresql"
    versions.mkdir(parents=True)
    for number, revision in enumerate(revisions):
        before = f'"{revisions[number - 1]}"' if number else "None"
        (versions / f"{number}.py").write_text(f'revision = "{revision}"\ndown_revision = {before}\n')
    return directory


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return environment(tmp_path / "prefect-old", OLD)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return environment(tmp_path / "prefect-new", NEW)


def test_revisions(new: Path) -> None:
    assert prefect_database.revisions(new) == (set(NEW), "aa04")


@pytest.mark.parametrize(("before", "way"), [(None, "upgrade"), ("aa02", "upgrade"), ("aa04", "none")])
def test_a_newer_prefect_upgrades(before: str | None, way: str, new: Path) -> None:
    assert prefect_database.direction(before, new, None) == way


def test_a_newer_schema_is_refused(old: Path) -> None:
    with pytest.raises(prefect_database.DatabaseError, match=r"newer Prefect \(revision aa04\).*rollback\.yml"):
        prefect_database.direction("aa04", old, None)


@pytest.mark.parametrize("before", ["aa03", "aa04"])
def test_the_newer_environment_brings_it_back(before: str, old: Path, new: Path) -> None:
    """Also from the middle, where a migration failed."""
    assert prefect_database.direction(before, old, new) == "downgrade"


def test_an_environment_that_does_not_know_the_schema_brings_nothing_back(old: Path, new: Path) -> None:
    with pytest.raises(prefect_database.DatabaseError, match="rollback_database=restore"):
        prefect_database.direction("aa05", old, new)
