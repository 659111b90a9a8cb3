"""A receipt holds as long as everything is as it was, and for nothing else."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import node_receipt
import pytest

_ACTION = Path(__file__).resolve().parents[2] / "ansible/action_plugins/node_receipt.py"


@pytest.fixture
def action() -> Any:
    specification = importlib.util.spec_from_file_location("node_receipt_action", _ACTION)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "etc"
    (root / "deep/er").mkdir(parents=True)
    (root / "deep/er/file").write_text("content")
    (root / "link").symlink_to("deep")
    return root


def _files(tree: Path, *ignore: str) -> dict[str, str]:
    return dict(node_receipt.observe_files([f"{tree}/**"], ignore))


@pytest.mark.parametrize(
    "tamper",
    [
        lambda tree: (tree / "deep/er/file").write_text("CONTENT"),
        lambda tree: (tree / "deep/er/file").chmod(0o600),
        lambda tree: (tree / "deep").chmod(0o700),
        lambda tree: (tree / "deep/er/file").unlink(),
        lambda tree: (tree / "new").touch(),
        lambda tree: (tree / "empty").mkdir(),
        lambda tree: ((tree / "link").unlink(), (tree / "link").symlink_to("deep/er")),
        lambda tree: ((tree / "link").unlink(), (tree / "link").mkdir()),
        lambda tree: (
            os.chown(tree / "link", 1, 1, follow_symlinks=False) if os.geteuid() == 0 else (tree / "x").touch()
        ),
    ],
)
def test_whatever_is_done_to_a_tree_is_seen(tree: Path, tamper: Callable[[Path], object]) -> None:
    before = _files(tree)
    assert _files(tree) == before
    tamper(tree)
    assert node_receipt.differences(before, _files(tree))


def test_content_counts_and_not_the_time_of_the_change(tree: Path) -> None:
    before = _files(tree)
    (tree / "deep/er/file").write_text("content")
    assert _files(tree) == before


def test_what_changes_by_itself_is_left_out(tree: Path) -> None:
    before = _files(tree, f"{tree}/deep/er/*")
    (tree / "deep/er/file").write_text("other")
    assert _files(tree, f"{tree}/deep/er/*") == before


def test_a_pattern_without_depth_looks_at_the_paths_alone(tree: Path) -> None:
    assert set(dict(node_receipt.observe_files([f"{tree}/deep", f"{tree}/no*"], []))) == {f"file {tree}/deep"}


def test_services_count_and_what_runs_now_and_then_does_not() -> None:
    shown = (
        "Id=a.service\nType=exec\nActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=no\n\n"
        "Id=b.service\nType=oneshot\nActiveState=inactive\nUnitFileState=static\nNeedDaemonReload=no\n\n"
        "Id=c.timer\nActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=no\n"
    )
    shown += "\n\nId=d.service\nType=exec\nTriggeredBy=d.socket\nActiveState=active\nUnitFileState=static"
    shown += "\n\nId=pag-run.slice\nActiveState=active\nUnitFileState=static\nNeedDaemonReload=no"
    assert dict(node_receipt.observe_units(shown)) == {
        "unit a.service": "active enabled no",
        "unit c.timer": "active enabled no",
    }


class _Api:
    def __init__(self, entries: list[dict[str, Any]]) -> None:
        self._entries = entries

    def request(self, method: str, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        assert (method, path) == ("POST", "/pools/filter")
        return self._entries[body["offset"] : body["offset"] + body["limit"]]


def test_all_pages_of_the_servers_objects_are_read() -> None:
    entries = [{"name": f"pool-{number}", "limit": number, "updated": "now"} for number in range(450)]
    api: Any = _Api(entries)
    found = dict(node_receipt.observe_objects(api, "/pools/filter", {}, ["name", "limit"]))
    assert len(found) == 450
    assert found["object /pools/filter pool-449"] == '{"name": "pool-449", "limit": 449}'


def test_what_cannot_be_asked_is_an_error() -> None:
    parameters = {"watch": [], "ignore": [], "units": ["x"], "queries": {}, "requests": []}
    with pytest.raises(node_receipt.ObservationError, match="no bus"):
        node_receipt.observe(parameters, lambda *_, **__: (1, "", "no bus"))


def test_a_receipt_is_written_only_when_a_run_changed_nothing(tmp_path: Path) -> None:
    receipts = tmp_path / "receipts"
    before, after = {"file /a": "1"}, {"file /a": "2"}
    assert node_receipt.ask(receipts, "worker", "i", before, keep=False) == ["there is no receipt"]
    assert node_receipt.write(receipts, "worker", after) == ["file /a"]
    assert node_receipt.ask(receipts, "worker", "i", after, keep=False) == ["there is no receipt"]
    assert node_receipt.write(receipts, "worker", after) == []
    assert node_receipt.ask(receipts, "worker", "i", after, keep=False) == []
    assert (receipts / "worker.json").stat().st_mode & 0o777 == 0o600
    # Another part has its own.
    assert node_receipt.ask(receipts, "server", "i", after, keep=False) == ["there is no receipt"]


@pytest.mark.parametrize(
    ("inputs", "found", "different"),
    [
        ("other", {"file /a": "1"}, ["what the run is given"]),
        ("i", {"file /a": "2", "unit b": "x"}, ["file /a", "unit b"]),
    ],
)
def test_a_receipt_that_does_not_hold_is_withdrawn_and_check_mode_leaves_it(
    tmp_path: Path, inputs: str, found: dict[str, str], different: list[str]
) -> None:
    node_receipt.ask(tmp_path, "worker", "i", {"file /a": "1"}, keep=False)
    node_receipt.write(tmp_path, "worker", {"file /a": "1"})
    assert node_receipt.ask(tmp_path, "worker", inputs, found, keep=True) == different
    assert (tmp_path / "worker.json").exists()
    assert node_receipt.ask(tmp_path, "worker", inputs, found, keep=False) == different
    assert not (tmp_path / "worker.json").exists()


def test_asked_again_the_run_is_given_what_it_was_given_before(tmp_path: Path) -> None:
    for _ in range(2):
        node_receipt.ask(tmp_path, "worker", "i", {"a": "1"}, keep=False)
        node_receipt.write(tmp_path, "worker", {"a": "1"})
    assert node_receipt.ask(tmp_path, "worker", None, {"a": "1"}, keep=False) == []
    assert node_receipt.ask(tmp_path, "worker", None, {"a": "2"}, keep=False) == ["a"]
    node_receipt.write(tmp_path, "worker", {"a": "2"})
    assert node_receipt.ask(tmp_path, "worker", "i", {"a": "2"}, keep=False) == []


@pytest.mark.parametrize(
    ("told", "off"), [(None, False), (1000.0, False), (1029.0, False), (971.0, False), (1031.0, True), (400.0, True)]
)
def test_a_clock_that_is_off_either_way_is_seen(told: float | None, off: bool) -> None:
    assert node_receipt.clock_is_off(1000.0, told, 30) is off


def test_a_run_that_was_killed_leaves_no_receipt(tmp_path: Path) -> None:
    node_receipt.ask(tmp_path, "worker", "i", {"a": "1"}, keep=False)
    # The next run begins with its own note.
    assert node_receipt.ask(tmp_path, "worker", "i", {"a": "1"}, keep=False) == ["there is no receipt"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"found": {}}'])
def test_a_damaged_receipt_does_not_hold(tmp_path: Path, content: str) -> None:
    (tmp_path / "worker.json").write_text(content)
    assert node_receipt.ask(tmp_path, "worker", "i", {"a": "1"}, keep=True)


_VARIABLES: dict[str, Any] = {
    "cpu_worker_limit": 4,
    "prefect_basic_auth_key": "admin:x",
    "pag_bundle": {"digest": "d"},
    "pag_node": {"target": "debian-12-x86_64", "python": "3.11", "free": 1},
    "groups": {"prefect_servers": ["s"], "prefect_workers": ["w"]},
    "hostvars": {"s": {"ansible_host": "192.0.2.1", "x": 1}},
    "ansible_play_hosts": ["s", "w"],
    "__preflight_node": {"time": 1},
    "role_uuid": "1",
}


@pytest.mark.parametrize(
    "changed",
    [
        {"cpu_worker_limit": 8},
        {"prefect_basic_auth_key": "admin:y"},
        {"hostvars": {"s": {"ansible_host": "192.0.2.2"}}},
        {"new_variable": None},
    ],
)
def test_what_a_run_is_given_counts(action: Any, changed: dict[str, Any]) -> None:
    assert action.given({**_VARIABLES, **changed}) != action.given(_VARIABLES)


@pytest.mark.parametrize(
    "changed",
    [
        # Facts: what they are about is looked at itself.
        {"pag_bundle": {"digest": "e"}},
        {"pag_node": {"target": "debian-12-x86_64", "python": "3.11", "free": 2}},
        {"ansible_play_hosts": ["s"]},
        {"__preflight_node": {"time": 2}},
        {"role_uuid": "2"},
        {"groups": {"prefect_servers": ["s"], "prefect_workers": ["w", "joined"]}},
    ],
)
def test_what_is_of_the_moment_or_of_other_nodes_does_not_count(action: Any, changed: dict[str, Any]) -> None:
    assert action.given({**_VARIABLES, **changed}) == action.given(_VARIABLES)


def test_the_playbooks_count_and_the_sites_own_files_beside_them_do_not(action: Any, tmp_path: Path) -> None:
    (tmp_path / "roles/x/tasks").mkdir(parents=True)
    (tmp_path / "roles/x/tasks/main.yml").write_text("a")
    (tmp_path / "main.yml").write_text("b")

    def digest() -> str:
        return str(action.digest_of_files(tmp_path, ("*.yml", "*/**/*"), ("inventory.yml",)))

    before = digest()
    (tmp_path / "inventory.yml").write_text("all:")
    assert digest() == before
    (tmp_path / "roles/x/tasks/main.yml").write_text("c")
    assert digest() != before
