from __future__ import annotations

import json
from pathlib import Path

import pytest
from wheels import make_wheel

from airgap.errors import ResolutionError
from airgap.sources.ansible_collections import extract_collections

PREFIX = "ansible_collections/ansible/posix"
MANIFEST = json.dumps({"collection_info": {"version": "2.1.0", "license": ["GPL-3.0-or-later"]}})


def wheel(tmp_path: Path) -> Path:
    files = {
        f"{PREFIX}/MANIFEST.json": MANIFEST,
        f"{PREFIX}/plugins/modules/synchronize.py": "code",
        f"{PREFIX}/tests/integration/x.yml": "test",
        f"{PREFIX}/docs/x.rst": "doc",
        f"{PREFIX}/changelogs/changelog.yaml": "old",
        "ansible_collections/ansible/posix_not/plugins/x.py": "other",
        "ansible_collections/amazon/aws/plugins/x.py": "other",
    }
    path = tmp_path / "ansible-12-py3-none-any.whl"
    path.write_bytes(make_wheel("ansible", "12", files=files))
    return path


def test_takes_only_what_runs(tmp_path: Path) -> None:
    files = {file.path: file for file in extract_collections(wheel(tmp_path), ("ansible.posix",))}
    assert set(files) == {
        f"ansible/collections/{PREFIX}/{n}" for n in ("MANIFEST.json", "plugins/modules/synchronize.py")
    }
    module = files[f"ansible/collections/{PREFIX}/plugins/modules/synchronize.py"]
    assert (module.content, module.name, module.version, module.licence) == (
        b"code",
        "ansible.posix",
        "2.1.0",
        "GPL-3.0-or-later",
    )


def test_a_collection_that_is_not_in_the_wheel(tmp_path: Path) -> None:
    with pytest.raises(ResolutionError, match=r"no collection community\.none"):
        list(extract_collections(wheel(tmp_path), ("ansible.posix", "community.none")))
