from __future__ import annotations

from pathlib import Path

import pytest

from airgap.errors import ResolutionError
from airgap.sources.files import checkout_files, flow_files

CHECKOUT = {
    "README.md", "install-pag-controller.sh", "ansible/main.yml", "ansible/inventory.yml.example", "airgap/__init__.py",
    "airgap/sources/conda.py",
}  # fmt: skip
LEFT_AT_HOME = {
    ".git/config", "demo.sh", "tests/test_x.py", "ansible/inventory.yml", "ansible/secrets.yml", "ansible/.ansible/x",
    "ansible/roles/secrets.yml", "ansible/main.retry", "ansible/collections/x", "airgap/__pycache__/x.pyc",
    "airgap/x.py~",
}  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in CHECKOUT | LEFT_AT_HOME:
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    (tmp_path / "checkout/install-pag-controller.sh").chmod(0o755)
    return tmp_path / "checkout"


def test_takes_what_belongs_to_a_bundle_and_nothing_private(checkout: Path) -> None:
    files = {file.path: file for file in checkout_files(checkout)}
    assert set(files) == CHECKOUT
    assert files["install-pag-controller.sh"].executable
    assert not files["README.md"].executable
    assert files["airgap/sources/conda.py"].content == b"airgap/sources/conda.py"


def test_an_incomplete_checkout(checkout: Path) -> None:
    (checkout / "install-pag-controller.sh").unlink()
    with pytest.raises(ResolutionError, match=r"install-pag-controller\.sh is missing"):
        list(checkout_files(checkout))


def test_links_are_refused(checkout: Path) -> None:
    (checkout / "ansible/link").symlink_to("/etc/passwd")
    with pytest.raises(ResolutionError, match=r"ansible/link is a symbolic link"):
        list(checkout_files(checkout))


@pytest.mark.parametrize("character", ["\n", "\r", "\f", "\x7f", "\x85", "\u2028", "\u2029"])
@pytest.mark.parametrize("name", ["a{}b.csv", "a{}b/data.csv"])
def test_control_characters_in_names_are_refused(tmp_path: Path, character: str, name: str) -> None:
    path = tmp_path / "my-flow" / name.format(character)
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(ResolutionError, match=r"a\\.+b\S* has a control character in its name, .*: rename it\.$"):
        list(flow_files(tmp_path / "my-flow"))


def test_names_in_any_language_travel(tmp_path: Path) -> None:
    (tmp_path / "my-flow").mkdir()
    (tmp_path / "my-flow/größe 数据.csv").touch()
    assert [file.path for file in flow_files(tmp_path / "my-flow")] == ["flows/my-flow/größe 数据.csv"]


def test_locks_travel_without_the_credentials_that_were_left_in_them(tmp_path: Path) -> None:
    flow = tmp_path / "my-flow"
    flow.mkdir()
    (flow / "pixi.lock").write_bytes(b"- url: https://me:pw@h.invalid/t/tk/forge/\xff\n")
    (flow / "main.py").write_bytes(b'URL = "https://me:pw@h.invalid"\n')
    files = {file.path: file.content for file in flow_files(flow)}
    assert files["flows/my-flow/pixi.lock"] == b"- url: https://h.invalid/forge/\xff\n"
    assert files["flows/my-flow/main.py"] == b'URL = "https://me:pw@h.invalid"\n'


def test_flows_travel_without_packs(tmp_path: Path) -> None:
    flow = tmp_path / "my-flow"
    (flow / "tests").mkdir(parents=True)
    for name in ("main.py", "packed-env.tar", "packed-env.debian-12-x86_64.tar", ".env", "tests/data.csv"):
        (flow / name).touch()
    assert [file.path for file in flow_files(flow)] == ["flows/my-flow/main.py", "flows/my-flow/tests/data.csv"]
