"""How the worker has flows' hooks called, without a flow in its own process."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ANSIBLE

sys.path.insert(0, str(ANSIBLE / "roles/prefect_worker/files/worker"))

from pag_worker.hooks import command_for, keep_flows_out, run_to_its_end

LOAD = "async def load_flow_from_flow_run(run): return 'the flow'\n"
RUN = "async def _run_hooks(hooks, run, flow, state): raise AssertionError\n"
NEWER = {"workers/process.py": LOAD, "runner/_hook_runner.py": RUN, "runner/runner.py": LOAD + RUN}
OLDER = {"workers/process.py": "", "runner/runner.py": LOAD + RUN}


@pytest.fixture
def prefect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have modules of a Prefect found, by their files."""

    def make(files: dict[str, str]) -> None:
        for name, content in files.items():
            path = tmp_path / "prefect" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        monkeypatch.syspath_prepend(tmp_path)

    yield make
    for name in [name for name in sys.modules if name.split(".")[0] == "prefect"]:
        del sys.modules[name]


@pytest.mark.parametrize("files", [NEWER, OLDER], ids=["3.8", "3.4"])
def test_prefect_loads_no_flow_and_asks_for_hooks(prefect: Any, files: dict[str, str]) -> None:
    prefect(files)
    called: list[tuple[Any, Any]] = []

    async def call(run: Any, state: Any) -> None:
        called.append((run, state))

    keep_flows_out(call)
    for module in [module for name, module in sys.modules.items() if name.startswith("prefect.")]:
        if load := getattr(module, "load_flow_from_flow_run", None):
            assert asyncio.run(load("a run")).on_crashed_hooks == []
        if run_hooks := getattr(module, "_run_hooks", None):
            asyncio.run(run_hooks([], "a run", "no flow", "a state"))
    assert set(called) == {("a run", "a state")}


def test_a_prefect_that_calls_hooks_elsewhere_is_refused(prefect: Any) -> None:
    prefect({**NEWER, "runner/_hook_runner.py": "", "runner/runner.py": LOAD})
    with pytest.raises(RuntimeError, match="This Prefect has no _run_hooks"):
        keep_flows_out(lambda *_: asyncio.sleep(0))


@pytest.mark.parametrize("module", ["prefect.engine", "prefect.flow_engine"])
def test_hooks_are_called_by_the_python_of_the_engine(module: str) -> None:
    program = "/usr/local/lib/pag-run/call_hooks.py"
    assert command_for(["/env/run", "python", "-m", module]) == ["/env/run", "python", program]


@pytest.mark.parametrize("engine", [["/my/engine"], ["python", "-m", "mine"], ["-m", "prefect.engine"], []])
def test_what_is_no_engine_of_prefects_has_no_hooks(engine: list[str]) -> None:
    assert command_for(engine) is None


def test_a_program_runs_in_its_directory_with_its_variables(tmp_path: Path) -> None:
    command = ["sh", "-c", 'echo "$GIVEN $HOME" > seen; exit 3']
    assert asyncio.run(run_to_its_end(command, tmp_path, {"GIVEN": 1, "MISSING": None}, show=False)) == 3
    assert (tmp_path / "seen").read_text() == f"1 {os.environ['HOME']}\n"


def test_a_program_whose_end_nobody_waits_for_is_killed(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo $$ > pid.new; mv pid.new pid; exec sleep 60"]

    async def give_up() -> None:
        waiting = asyncio.ensure_future(run_to_its_end(command, tmp_path, {}, show=False))
        while not (tmp_path / "pid").exists():
            await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(give_up())
    process = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{process}").exists()
