"""Runs are in boxes of their own: what they may use, what they see, and that nothing of them stays."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cluster_site import CPU_WORKERS, Secrets
from machines import Machines
from prefect_api import ApiError, PrefectApi
from testinfra.host import Host

On = Callable[[str], Host]

PLACE = "/opt/prefect/flows/boxed/0123456789ab"
OTHER = "/opt/prefect/flows/demo1"
LEFT = "sleep 86397"
# What it sees is its result's file, which its box has in a directory for the flow.
MAIN = f'''
import json, os, subprocess, tempfile, time
from pathlib import Path

from prefect import flow


def refused(action):
    try:
        action()
    except OSError:
        return True
    return False


@flow(name="boxed")
def look(seconds: float = 0) -> None:
    users = {{path.stat().st_uid for path in Path("/proc").glob("[0-9]*")}}
    Path("written-beside-the-code").write_text("mine")
    Path("/tmp/in-its-own-tmp").touch()
    seen = {{
        "home": os.environ["HOME"],
        "home_is_writable": not refused(lambda: (Path.home() / "x").touch()),
        "usr": refused(lambda: Path("/usr/x").touch()),
        "environments": refused(lambda: Path("/opt/prefect/envs/x").touch()),
        "settings": refused(lambda: list(Path("/etc/prefect").iterdir())),
        "other_flow": refused(lambda: list(Path("{OTHER}").iterdir())),
        "socket": refused(lambda: open("/run/pag/run.sock")),
        "only_own_processes": users == {{os.getuid()}},
        "own_tmp": sorted(path.name for path in Path("/tmp").iterdir()),
    }}
    results = Path(os.environ["PREFECT_LOCAL_STORAGE_PATH"])
    (results / "seen.json").write_text(json.dumps(seen))
    script = """
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "86397"])
"""
    subprocess.run(["python3", "-c", script], check=True)
    subprocess.Popen(["setsid", "nohup", "sleep", "86397"])
    time.sleep(seconds)
'''


@dataclass(frozen=True)
class Boxed:
    """A flow that looks around, and leaves programs in the background."""

    machines: Machines
    api: PrefectApi
    deployment: str

    def start(self, seconds: float, **limits: Any) -> str:
        """Start a run and return its id once it is Running."""
        body = {"state": {"type": "SCHEDULED"}, "parameters": {"seconds": seconds}, "job_variables": limits}
        return str(self.api.request("POST", f"/deployments/{self.deployment}/create_flow_run", body)["id"])

    def wait_for(self, run: str, *names: str, seconds: float = 120) -> dict[str, Any]:
        """Wait until a run's state has one of the names."""
        deadline = time.monotonic() + seconds
        while (found := dict(self.api.request("GET", f"/flow_runs/{run}")))["state_name"] not in names:
            assert time.monotonic() < deadline, found["state"]
            time.sleep(0.2)
        return found

    def crashed(self, run: str, message: str, seconds: float = 120) -> None:
        """Wait until a run is Crashed, and its state has *message* in it: Prefect's own comes a moment before."""
        deadline = time.monotonic() + seconds
        while message not in (state := self.wait_for(run, "Crashed", seconds=seconds)["state"])["message"]:
            assert time.monotonic() < deadline, state
            time.sleep(0.2)

    def unit(self, run: str) -> tuple[str, str]:
        """Return the node and the unit of a run, once it has its programs in the background."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for node in CPU_WORKERS:
                listed = "systemctl list-units --plain --no-legend 'flow-run-*'"
                units = [line.split()[0] for line in self.machines.ssh(node, listed).splitlines()]
                for unit in units:
                    if run in unit and len(self.background(node)) == 2:
                        return node, unit
            time.sleep(0.2)
        raise AssertionError(f"The run {run} has no unit with two programs in the background.")

    def background(self, node: str) -> list[str]:
        """Return the programs that runs have left in the background."""
        return self.machines.ssh(node, f"pgrep --full '^{LEFT}' || test $? = 1").split()

    def assert_gone(self, node: str, unit: str) -> None:
        """Assert that within seconds nothing of a run is left."""
        deadline = time.monotonic() + 30
        command = (
            f"pgrep --full '^{LEFT}'; systemctl list-units --all --plain --no-legend '{unit}'; "
            "sudo find /opt/prefect/runs /run/pag-run -mindepth 1"
        )
        while left := self.machines.ssh(node, f"{command} 2>/dev/null || true").splitlines():
            assert time.monotonic() < deadline, left
            time.sleep(0.3)


@pytest.fixture(scope="module")
def api(machines: Machines, secrets: Secrets) -> Iterator[PrefectApi]:
    """The server's API, for the whole module."""
    with machines.tunnel() as port:
        yield PrefectApi(f"http://localhost:{port}/api", secrets.basic_auth)


@pytest.fixture(scope="module")
def boxed(machines: Machines, api: PrefectApi) -> Iterator[Boxed]:
    """The flow, in the base environment, where deployed flows are."""
    for name in CPU_WORKERS:
        machines.ssh(name, f"sudo mkdir -p {PLACE} && sudo tee {PLACE}/main.py >/dev/null", stdin=MAIN)
    flow = api.request("POST", "/flows/", {"name": "boxed"})
    wanted = {
        "name": "boxed",
        "flow_id": flow["id"],
        "work_pool_name": "cpu-pool",
        "entrypoint": "main.py:look",
        "path": PLACE,
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": PLACE}}],
        "job_variables": {"command": "/opt/prefect/pixi-env/run python -m prefect.engine", "working_dir": PLACE},
    }
    deployment = api.request("POST", "/deployments/", wanted)
    yield Boxed(machines, api, deployment["id"])
    with contextlib.suppress(ApiError):
        api.request("DELETE", f"/flows/{flow['id']}")
    for name in CPU_WORKERS:
        machines.ssh(name, "sudo rm -rf /opt/prefect/flows/boxed /opt/prefect/storage/boxed")


@pytest.fixture(scope="module")
def under_way(boxed: Boxed) -> tuple[str, str, str]:
    """A run under way, with limits: its id, node and unit."""
    run = boxed.start(300, memory_max="700M", cpu_weight=50, tasks_max=200)
    return run, *boxed.unit(run)


def test_the_unit_of_a_run_has_its_limits(under_way: tuple[str, str, str], on: On) -> None:
    _, node, unit = under_way
    show = "systemctl show --property=MemoryMax,MemorySwapMax,CPUWeight,TasksMax,Slice,User,NoNewPrivileges,OOMPolicy"
    properties = dict(line.split("=", 1) for line in on(node).check_output(f"{show} {unit}").splitlines())
    assert properties == {
        "MemoryMax": str(700 * 2**20),
        "MemorySwapMax": "0",
        "CPUWeight": "50",
        "TasksMax": "200",
        "Slice": "pag-run.slice",
        "User": "prefect",
        "NoNewPrivileges": "yes",
        "OOMPolicy": "kill",
    }


def test_a_run_sees_what_is_its_own(under_way: tuple[str, str, str], on: On) -> None:
    run, node, _ = under_way
    seen = json.loads(on(node).file("/opt/prefect/storage/boxed/seen.json").content_string)
    home = seen.pop("home")
    assert home.startswith(f"/opt/prefect/runs/{run}-")
    # Prefect may keep files of its own there.
    assert "in-its-own-tmp" in seen["own_tmp"]
    assert not any("prefect-worker" in name or "systemd" in name for name in seen.pop("own_tmp"))
    assert set(seen.values()) == {True}, seen
    assert not on(node).file("/tmp/in-its-own-tmp").exists
    assert not on(node).file(f"{PLACE}/written-beside-the-code").exists


def test_the_login_is_in_no_command_and_no_unit(under_way: tuple[str, str, str], on: On, secrets: Secrets) -> None:
    _, node, unit = under_way
    shown = on(node).check_output(f"systemctl show {unit}; systemctl cat {unit}; ps -A -ww -o args")
    assert secrets.basic_auth not in shown


def test_a_cancelled_run_leaves_nothing(under_way: tuple[str, str, str], boxed: Boxed) -> None:
    run, node, unit = under_way
    body = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": False}
    boxed.api.request("POST", f"/flow_runs/{run}/set_state", body)
    boxed.wait_for(run, "Cancelled")
    boxed.assert_gone(node, unit)


def test_a_run_that_ends_leaves_nothing(boxed: Boxed) -> None:
    run = boxed.start(3)
    node, unit = boxed.unit(run)
    # systemd 252 loses parts of transient units then.
    boxed.machines.ssh(node, "sudo systemctl daemon-reload")
    boxed.wait_for(run, "Completed")
    boxed.assert_gone(node, unit)


# What is killed, and the pattern of its command.
@pytest.mark.parametrize("killed", ["/usr/local/lib/pag-run/client.py", "/usr/local/lib/pag-run/broker.py"])
def test_what_stands_for_a_run_takes_it_along(boxed: Boxed, killed: str) -> None:
    run = boxed.start(300)
    node, unit = boxed.unit(run)
    boxed.machines.ssh(node, f"sudo pkill -KILL --full '^/usr/bin/python3 .*{killed}'")
    boxed.wait_for(run, "Crashed")
    boxed.assert_gone(node, unit)


def test_a_killed_worker_leaves_nothing(boxed: Boxed, machines: Machines) -> None:
    run = boxed.start(300)
    node, unit = boxed.unit(run)
    machines.ssh(node, "sudo systemctl kill --signal=SIGKILL prefect-worker-cpu")
    boxed.assert_gone(node, unit)
    boxed.crashed(run, "the worker on", seconds=180)


def test_a_run_that_takes_too_long_says_so(boxed: Boxed) -> None:
    boxed.crashed(boxed.start(300, time_max=6), "Out of time: the run took longer than time_max=6 seconds.")


def test_a_wrong_limit_is_refused_in_words(boxed: Boxed) -> None:
    boxed.crashed(boxed.start(1, memory_max="lots"), "memory_max is 'lots': it has to be")


@pytest.mark.parametrize(("unit", "most"), [("prefect-worker-cpu.service", 4.5), ("pag-run.service", 2.0)])
def test_units_are_as_closed_as_they_can_be(on: On, unit: str, most: float) -> None:
    said = on(CPU_WORKERS[0]).check_output(f"systemd-analyze security --no-pager {unit} | tail -n 1")
    assert float(said.split(":")[1].split()[0]) <= most, said
