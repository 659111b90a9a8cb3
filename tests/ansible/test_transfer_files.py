"""The action plugin transfer_files, run by Ansible on this host."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from plays import PLAYS, run

pytestmark = [*PLAYS, pytest.mark.skipif(shutil.which("rsync") is None, reason="needs rsync")]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("conda/a.conda", "pypi/deep/b.whl", "pypi/c.whl"):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        path.chmod(0o600)
    return tmp_path / "source"


def _play(directory: Path, **task: Any) -> tuple[int, str]:
    finished = run(directory, [{"transfer_files": task}])
    return finished.returncode, " ".join(f"{finished.stdout} {finished.stderr}".split())


def test_the_files_that_are_named_travel_and_no_list_is_left(source: Path, tmp_path: Path) -> None:
    there = tmp_path / "new/there"
    task = {"source": str(source), "destination": str(there), "files": ["conda/a.conda", "pypi/deep/b.whl"]}
    code, output = _play(tmp_path, **task)
    assert (code, "changed=1" in output) == (0, True), output
    assert sorted(path.name for path in there.rglob("*") if path.is_file()) == ["a.conda", "b.whl"]
    assert (there / "conda/a.conda").stat().st_mode & 0o777 == 0o644
    assert (there / "pypi/deep").stat().st_mode & 0o777 == 0o755
    assert not list(tmp_path.glob("pag-transfer-*"))
    assert "changed=0" in _play(tmp_path, **task)[1]
    # The same size and time; another content.
    status = (there / "conda/a.conda").stat()
    (there / "conda/a.conda").write_text("CONDA/a.conda")
    os.utime(there / "conda/a.conda", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "changed=1" in _play(tmp_path, **task)[1]
    assert (there / "conda/a.conda").read_text() == "conda/a.conda"


def test_what_an_older_version_has_is_linked(source: Path, tmp_path: Path) -> None:
    older, there = tmp_path / "older", tmp_path / "there"
    task = {"source": str(source), "files": ["conda/a.conda", "pypi/c.whl"]}
    assert _play(tmp_path, **task, destination=str(older))[0] == 0
    (source / "pypi/c.whl").write_text("changed")
    assert _play(tmp_path, **task, destination=str(there), older=[str(older)])[0] == 0
    same = [(there / name).samefile(older / name) for name in task["files"]]
    assert same == [True, False]
    assert (there / "pypi/c.whl").read_text() == "changed"


def test_nothing_to_transfer_is_nothing_done(source: Path, tmp_path: Path) -> None:
    code, output = _play(tmp_path, source=str(source), destination=str(tmp_path / "there"), files=[])
    assert (code, "changed=0" in output, (tmp_path / "there").exists()) == (0, True, False)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"source": "SOURCE", "files": ["conda/a.conda"]}, "needs source and destination"),
        ({"source": "SOURCE", "destination": "there", "files": ["a\nb"]}, "cannot be the name of a file"),
        ({"source": "SOURCE", "destination": "there", "files": ["no-such-file"]}, "no-such-file"),
    ],
)
def test_what_cannot_be_transferred_is_an_error(source: Path, tmp_path: Path, task: dict[str, Any], said: str) -> None:
    code, output = _play(tmp_path, **(task | {"source": str(source)}))
    assert (code, said in output) == (2, True), output
