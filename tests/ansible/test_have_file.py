"""The module that writes what a site has: nothing of the nodes but packages, signed when the site has a key."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import have_file
import pytest
from sites import TARGET, deploy, wheel, write_bundle

from airgap.have import Have
from airgap.populate import Contents, finish, populate
from airgap.signature import HAVE_NAMESPACE, unchecked_signer
from airgap.site import Site

NODES: list[dict[str, Any]] = [
    {
        "target": TARGET.name,
        "packages": {"acl:amd64": "2.3.1-3"},
        "inventory_hostname": "node-secret-name",
        "ansible_host": "198.51.100.7",
    }
]


@pytest.fixture(autouse=True)
def _same_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    found = Site(tmp_path / "pag")
    populate(write_bundle(tmp_path / "bundle", wheel("a")), found, Contents({}))
    finish(tmp_path / "bundle", found)
    deploy(found.root, "report", wheel("e"))
    return found.root


@pytest.fixture
def key(tmp_path: Path) -> Path:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not on this host")
    path = tmp_path / "site_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def test_neither_names_nor_addresses_nor_secrets_are_in_it(root: Path) -> None:
    (root / "secret").write_text("hunter2")
    content, signature, files = have_file.contents(root, NODES, Path("/nonexistent"))
    assert signature is None
    assert files > 0
    text = content.decode()
    for word in ("node-secret-name", "198.51.100.7", "hunter2", str(root)):
        assert word not in text
    assert set(json.loads(text)) == {
        "format_version",
        "created_by",
        "prefect_version",
        "targets",
        "packages",
        "contents",
        "environments",
        "flows",
        "systems",
    }
    assert Have.from_json(text, "test").systems[0].common == {"acl:amd64": "2.3.1-3"}


def test_it_is_signed_with_the_sites_key(root: Path, key: Path) -> None:
    content, signature, _ = have_file.contents(root, NODES, key)
    assert signature is not None
    assert unchecked_signer(content, signature, HAVE_NAMESPACE).kind == "ED25519"


def test_whether_a_file_differs(tmp_path: Path) -> None:
    path = tmp_path / "have.json"
    assert have_file.differs(path, b"a")
    assert not have_file.differs(path, None)
    path.write_bytes(b"a")
    assert not have_file.differs(path, b"a")
    assert have_file.differs(path, b"b")
    assert have_file.differs(path, None)


def test_no_bundle_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(have_file.HaveError, match=r"run install-pag-controller\.sh"):
        have_file.contents(tmp_path, NODES, Path("/nonexistent"))
