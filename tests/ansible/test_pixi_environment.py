from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from installables import Node, this_hosts_target

TARGET = this_hosts_target()
pytestmark = pytest.mark.skipif(TARGET is None, reason="the host is no target, or lacks its own python3")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    assert TARGET is not None
    return Node(tmp_path, TARGET)


def run(
    node: Node, repository: Path, description: Path, *, check: bool = False, toolkit: Path | None = None
) -> dict[str, Any]:
    """Run the module as Ansible does on a node, and return what it answers."""
    arguments = {
        "description": str(description),
        "mirror": str(node.mirror),
        "root": str(node.root),
        "cache": str(node.cache),
        "link": str(node.link),
        # The checkout is as good as the toolkit: rattler and uv are in this test's own environment.
        "toolkit": str(toolkit or repository),
        "_ansible_check_mode": check,
        "_ansible_diff": True,
        "_ansible_remote_tmp": str(node.directory / "tmp"),
    }
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", str(repository / "ansible/library/pixi_environment.py")],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
    )
    answer: dict[str, Any] = json.loads(finished.stdout)
    assert answer.get("failed", False) == (finished.returncode != 0)
    return answer


def test_installs_and_then_changes_nothing(node: Node, repository: Path) -> None:
    description = node.describe("base", alpha="1.0")
    first = run(node, repository, description)
    assert (first["changed"], first["installed"], first["linked"]) == (True, True, True)
    assert first["diff"]["before"] == f"{first['path']}: absent\n{node.link} -> nothing\n"
    assert first["diff"]["after"] == f"{first['path']}: installed\n{node.link} -> {first['path']}\n"
    assert Path(first["python"]).exists()
    again = run(node, repository, description)
    assert (again["changed"], again["path"]) == (False, first["path"])
    assert again["diff"]["before"] == again["diff"]["after"]


def test_check_mode_foresees_it(node: Node, repository: Path) -> None:
    description = node.describe("base", alpha="1.0")
    foreseen = run(node, repository, description, check=True)
    assert (foreseen["changed"], node.root.exists()) == (True, False)
    done = run(node, repository, description)
    assert (foreseen["path"], foreseen["diff"]) == (done["path"], done["diff"])
    assert not run(node, repository, description, check=True)["changed"]


def test_check_mode_works_before_anything_was_carried_over(node: Node, repository: Path) -> None:
    description = node.describe("base", alpha="1.0")
    known = run(node, repository, description, check=True, toolkit=node.directory / "none")
    assert (known["changed"], Path(known["path"]).parent) == (True, node.root)
    unknown = run(node, repository, node.directory / "none.json", check=True)
    assert (unknown["changed"], unknown["path"]) == (True, "")


def test_fails_with_the_installers_sentence(node: Node, repository: Path) -> None:
    description = node.describe("base", alpha="1.0")
    (node.mirror / "pypi/alpha-1.0-py3-none-any.whl").write_bytes(b"x")
    answer = run(node, repository, description)
    assert answer["msg"].endswith("carry the bundle over again.")
    assert "pypi/alpha-1.0-py3-none-any.whl is damaged" in answer["msg"]
    assert not answer["msg"].startswith("error")


def test_says_when_the_toolkit_is_not_there(node: Node, repository: Path) -> None:
    answer = run(node, repository, node.describe("base"), toolkit=node.directory / "none")
    assert answer["msg"] == f"The toolkit {node.directory}/none is not there: run the role common first."
