"""The module that removes what is not used: the dry run announces what the real one does."""

from __future__ import annotations

import sys
from pathlib import Path

import prune_mirror
import pytest
from sites import tree, wheel, write_bundle

from airgap.populate import Contents, finish, populate
from airgap.site import Site


@pytest.fixture(autouse=True)
def _same_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    site = Site(tmp_path / "pag")
    for number in range(4):
        bundle = write_bundle(tmp_path / str(number), wheel(f"a{number}", b"x" * 1000), version=str(number))
        populate(bundle, site, Contents({}))
        finish(bundle, site)
    return site.root


def test_check_mode_announces_what_is_done_then(root: Path) -> None:
    before = tree(root)
    announced = prune_mirror.run(root, 3, check=True)
    assert tree(root) == before
    assert announced["changed"]
    assert "mirror/pypi/a0-1-py3-none-any.whl" in announced["paths"]
    done = prune_mirror.run(root, 3, check=False)
    assert {key: done[key] for key in done if key != "msg"} == {
        key: announced[key] for key in announced if key != "msg"
    }
    assert "would be removed" in announced["msg"]
    assert "were removed" in done["msg"]
    assert "1000 bytes more are shared with files that stay" in done["msg"]
    assert not set(announced["paths"]) & set(tree(root))
    again = prune_mirror.run(root, 3, check=False)
    assert not again["changed"]
    assert again["msg"] == "Every file is used: there is nothing to remove."


def test_no_bundle_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(prune_mirror.PruneError, match=r"run install-pag-controller\.sh"):
        prune_mirror.run(tmp_path, 3, check=True)
