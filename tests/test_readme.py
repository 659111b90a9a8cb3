"""The README's commands, which the demo and the scenarios type."""

from __future__ import annotations

from pathlib import Path

import pytest
import readme

_BLOCKS = (
    "bootstrapper",
    "controller-install",
    "controller-configure",
    "controller-server",
    "controller-worker",
    "controller-flows",
    "controller-join",
    "controller-have",
    "bootstrapper-delta",
    "controller-update",
    "controller-volumes",
    "worker-by-hand",
)


@pytest.mark.parametrize("name", _BLOCKS)
def test_the_readme_has_the_commands(name: str) -> None:
    assert readme.commands(name)


def test_the_commands_are_those_that_operators_know() -> None:
    typed = [command.partition("#")[0].strip() for commands in readme.blocks().values() for command in commands]
    for command in (
        "python3 build-bundle.py",
        "tar -xvf pag-software-bundle.tar.gz",
        "bash install-pag-controller.sh",
        "cp inventory.yml.example inventory.yml",
        "cp secrets.yml.example secrets.yml",
        "ansible all -i inventory.yml -m ping",
        "ansible-playbook -i inventory.yml main.yml --tags prefect-server",
        "ansible-playbook -i inventory.yml main.yml --tags prefect-worker",
        "ansible-playbook -i inventory.yml main.yml --tags prefect-worker --limit NEW_NODE",
    ):
        assert command in typed


def test_continued_lines_are_one_command(tmp_path: Path) -> None:
    text = "<!-- demo:x -->\n```shell\n# comment\n\na \\\n  b\nc\n```\n"
    (tmp_path / "README.md").write_text(text)
    assert readme.commands("x", tmp_path / "README.md") == ["a    b", "c"]


def test_unmarked_blocks_are_not_typed(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("```shell\nrm -rf /\n```\n")
    assert readme.blocks(tmp_path / "README.md") == {}


def test_a_missing_block_is_named(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("")
    with pytest.raises(readme.ReadmeError, match="demo:x"):
        readme.commands("x", tmp_path / "README.md")
