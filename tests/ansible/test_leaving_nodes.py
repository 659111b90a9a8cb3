"""The modules that take a node out of a cluster: what the server forgets, what is found and remembered on the node."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import node_before
import node_footprint
import prefect_lost_worker
import prefect_pool_worker
import pytest

from ansible.module_utils.prefect_api import PrefectUnreachableError


class FakeModule:
    """What the modules' run() needs of AnsibleModule."""

    def __init__(self, params: dict[str, Any], check_mode: bool) -> None:
        self.params = params
        self.check_mode = check_mode


class FakeServer:
    """A server with two pools of workers, and runs."""

    def __init__(self) -> None:
        self.workers = {"cpu-pool": [f"other-{number}" for number in range(250)] + ["node-1"], "gpu-pool": ["node-1"]}
        self.runs: list[dict[str, Any]] = []
        self.writes: list[tuple[str, str, Any]] = []
        self.is_down = False

    def request(self, method: str, path: str, body: Any = None) -> Any:
        if self.is_down:
            raise PrefectUnreachableError("does not answer")
        if path.endswith("/filter"):
            parts = path.strip("/").split("/")
            entries = {
                "work_pools": lambda: [{"name": name} for name in self.workers],
                "workers": lambda: [{"name": name} for name in self.workers[parts[1]]],
                "flow_runs": lambda: self.runs,
            }[parts[-2]]()
            return entries[body["offset"] : body["offset"] + body["limit"]]
        self.writes.append((method, path, body))
        if method == "DELETE":
            _, pool, _, worker = path.strip("/").split("/")
            self.workers[pool].remove(worker)
        return None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    server = FakeServer()
    for module in (prefect_pool_worker, prefect_lost_worker):
        monkeypatch.setattr(module.PrefectApi, "from_parameters", lambda _: server)
    return server


def _run(module: ModuleType, check: bool = False, **params: Any) -> dict[str, Any]:
    result: dict[str, Any] = module.run(FakeModule({"name": "node-1", **params}, check))
    return result


def test_a_worker_is_forgotten_in_every_pool(server: FakeServer) -> None:
    assert _run(prefect_pool_worker, keep_pools=[]) == {"changed": True, "removed": ["cpu-pool", "gpu-pool"]}
    assert _run(prefect_pool_worker, keep_pools=[]) == {"changed": False, "removed": []}
    assert len(server.workers["cpu-pool"]) == 250


def test_a_worker_that_moved_stays_in_its_pool(server: FakeServer) -> None:
    assert _run(prefect_pool_worker, keep_pools=["gpu-pool"])["removed"] == ["cpu-pool"]
    assert server.workers["gpu-pool"] == ["node-1"]


def test_check_mode_forgets_nothing(server: FakeServer) -> None:
    assert _run(prefect_pool_worker, check=True, keep_pools=[])["changed"]
    assert server.writes == []


def test_a_server_that_is_down_is_an_error_unless_only_asked(server: FakeServer) -> None:
    server.is_down = True
    with pytest.raises(PrefectUnreachableError):
        _run(prefect_pool_worker, keep_pools=[])
    assert not _run(prefect_pool_worker, check=True, keep_pools=[])["changed"]


def _flow_run(name: str, worker: str | None, state: str = "RUNNING") -> dict[str, Any]:
    labels = {"prefect.worker.name": worker} if worker else {}
    return {"id": f"id-{name}", "name": name, "labels": labels, "state_type": state}


def test_only_the_runs_of_the_dead_worker_are_ended(server: FakeServer) -> None:
    server.runs = [
        _flow_run("one", "node-1"),
        _flow_run("cancelling", "node-1", "CANCELLING"),
        _flow_run("another's", "node-2"),
        _flow_run("nobody's", None),
    ]
    assert _run(prefect_lost_worker, check=True, message="Lost: x")["ended"] == ["one", "cancelling"]
    assert server.writes == []
    assert _run(prefect_lost_worker, message="Lost: x")["ended"] == ["one", "cancelling"]
    assert [(path, body["state"]["type"], body["state"]["message"]) for _, path, body in server.writes] == [
        ("/flow_runs/id-one/set_state", "CRASHED", "Lost: x"),
        ("/flow_runs/id-cancelling/set_state", "CANCELLED", "Lost: x"),
    ]


def test_units_and_their_drop_ins_are_found_by_name(tmp_path: Path) -> None:
    for name in ("prefect-server.service", "pag-backup.timer", "pag-ui.socket", "ssh.service", "prefect-notes.txt"):
        (tmp_path / name).touch()
    for name in ("prefect-server.service.d/pag.conf", "ours.service.d/pag.conf", "both.service.d/pag.conf"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "both.service.d" / "theirs.conf").touch()
    found = node_footprint.unit_paths(["prefect-*", "pag-*"], ["pag-ui.socket"], tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "both.service.d/pag.conf",
        "ours.service.d",
        "pag-backup.timer",
        "prefect-server.service",
        "prefect-server.service.d",
    ]


def test_files_of_others_are_told_from_ours_and_from_traces_of_logins(tmp_path: Path) -> None:
    for name in ("envs", "flows", ".prefect/storage", "data"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".bash_history").touch()
    (tmp_path / "model.bin").touch()
    storage = tmp_path / ".prefect" / "storage"
    own = ["envs", "flows"]
    assert node_footprint.files_of_others(tmp_path, own, [storage]) == [f"{tmp_path}/data", f"{tmp_path}/model.bin"]
    (storage / "result").touch()
    assert str(storage) in node_footprint.files_of_others(tmp_path, own, [storage])
    assert node_footprint.files_of_others(tmp_path / "missing", own, []) == []


def test_processes_of_our_units_are_told_from_others(tmp_path: Path) -> None:
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    for pid, group in (("10", "/system.slice/prefect-worker-cpu.service/run-1"), ("11", "/user.slice")):
        process = tmp_path / pid
        process.mkdir()
        (process / "cgroup").write_text(f"0::{group}\n")
        (process / "cmdline").write_bytes(b"bash\0-c\0secret\0")
    assert node_footprint.processes_of(user, ["prefect-*"], tmp_path) == ["11 bash"]
    assert node_footprint.processes_of("nobody-of-that-name", ["prefect-*"], tmp_path) == []


def test_what_was_there_is_remembered_with_the_targets_of_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_before, "_is", lambda question, _: question == "is-active")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "file").touch()
    paths = [str(tmp_path / name) for name in ("link", "file", "missing")]
    found = node_before.state_now("root", paths, ["nginx.service"])
    assert found == {
        "user": True,
        "group": True,
        "paths": {paths[0]: "target", paths[1]: ""},
        "units": {"nginx.service": {"enabled": False, "active": True}},
    }
    record = tmp_path / "pag" / "before.json"
    node_before.write(record, found)
    assert record.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in record.parent.iterdir()] == ["before.json"]
