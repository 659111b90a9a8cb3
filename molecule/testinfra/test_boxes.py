"""Runs are in boxes of their own: what they may use, what they see, and that nothing of them stays."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cluster_site import CPU_WORKERS, FLOW_USER, Secrets
from machines import Machines
from placed_flow import PlacedFlow
from playbooks import play
from prefect_api import PrefectApi
from testinfra.host import Host

On = Callable[[str], Host]

OTHER = "/opt/prefect/flows/demo1"
LEFT = "sleep 86397"
# What it sees is its result's file, which its box has in a directory for the flow.
MAIN = f'''
import json, os, pwd, subprocess, time
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
        "others_environments": refused(lambda: list(Path("/run/pag-run").iterdir())),
        "kernel_is_read_only": all(
            os.statvfs(path).f_flag & os.ST_RDONLY for path in ("/sys", "/sys/fs/cgroup", "/proc/sys")
        ),
        "only_own_processes": users == {{os.getuid()}},
        "user": pwd.getpwuid(os.getuid()).pw_name,
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


class Boxed(PlacedFlow):
    """A flow that looks around, and leaves programs in the background."""

    def start(self, seconds: float, **limits: Any) -> str:
        """Start a run and return its id."""
        return self.start_with({"seconds": seconds}, **limits)

    def unit(self, run: str) -> tuple[str, str]:
        """Return the node and the unit of a run, once it has its programs in the background."""
        node, unit = self.unit_of(run)
        deadline = time.monotonic() + 180
        while len(self.background(node)) != 2:
            assert time.monotonic() < deadline, f"The run {run} does not have two programs in the background."
            time.sleep(0.2)
        return node, unit

    def background(self, node: str) -> list[str]:
        """Return the programs that runs have left in the background."""
        return self.machines.ssh(node, f"pgrep --full '^{LEFT}' || test $? = 1").split()

    def assert_gone(self, node: str, unit: str) -> None:
        """Assert that within seconds nothing of a run is left."""
        deadline = time.monotonic() + 60
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
    """The flow, deployed."""
    flow = Boxed(machines, api, "boxed", MAIN, "main.py:look")
    with flow.deployed():
        yield flow


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


def test_a_run_sees_what_is_its_own(under_way: tuple[str, str, str], boxed: Boxed, on: On) -> None:
    run, node, _ = under_way
    seen = json.loads(on(node).file("/opt/prefect/storage/boxed/seen.json").content_string)
    assert seen.pop("user") == "prefect"
    home = seen.pop("home")
    assert home.startswith(f"/opt/prefect/runs/{run}-")
    # Prefect may keep files of its own there.
    assert "in-its-own-tmp" in seen["own_tmp"]
    assert not any("prefect-worker" in name or "systemd" in name for name in seen.pop("own_tmp"))
    assert set(seen.values()) == {True}, seen
    assert not on(node).file("/tmp/in-its-own-tmp").exists
    assert not on(node).file(f"{boxed.place}/written-beside-the-code").exists


def test_the_login_is_in_no_command_and_no_unit(under_way: tuple[str, str, str], on: On, secrets: Secrets) -> None:
    _, node, unit = under_way
    shown = on(node).check_output(f"systemctl show {unit}; systemctl cat {unit}; ps -A -ww -o args")
    assert secrets.basic_auth not in shown


def test_a_cancelled_run_leaves_nothing(under_way: tuple[str, str, str], boxed: Boxed) -> None:
    run, node, unit = under_way
    boxed.cancel(run)
    boxed.assert_gone(node, unit)


def test_a_run_that_ends_leaves_nothing(boxed: Boxed) -> None:
    run = boxed.start(15)
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
    boxed.crashed(run, "the worker on")


def test_a_run_that_takes_too_long_says_so(boxed: Boxed) -> None:
    boxed.crashed(boxed.start(300, time_max=6), "Out of time: the run took longer than time_max=6 seconds.")


def test_a_wrong_limit_is_refused_in_words(boxed: Boxed) -> None:
    boxed.crashed(boxed.start(1, memory_max="lots"), "memory_max is 'lots': it has to be")


def test_a_run_may_be_another_user(boxed: Boxed, on: On) -> None:
    run = boxed.start(15, flow_user=FLOW_USER)
    node, unit = boxed.unit(run)
    assert on(node).check_output(f"systemctl show --property=User --value {unit}") == FLOW_USER
    boxed.wait_for(run, "Completed")
    results = on(node).file(f"/opt/prefect/storage/boxed@{FLOW_USER}")
    assert (results.user, results.mode) == (FLOW_USER, 0o700)
    seen = json.loads(on(node).file(f"{results.path}/seen.json").content_string)
    assert seen.pop("user") == FLOW_USER
    assert {name for name, value in seen.items() if value is not True} == {"home", "own_tmp"}


def test_no_run_is_a_user_that_the_node_was_not_told_of(boxed: Boxed) -> None:
    boxed.crashed(boxed.start(1, flow_user="root"), f"flow_user is 'root', and {CPU_WORKERS[0][:-1]}")


def test_a_flow_for_such_a_user_is_not_deployed(machines: Machines) -> None:
    result = play(
        machines,
        "prefect-flow-deployment.yml",
        *("-e", "flow_dir=../flows/demo1", "-e", "entrypoint=main.py:my_workflow"),
        *("-e", '{"job_variables": {"flow_user": "daemon"}}'),
    )
    assert result.returncode != 0
    assert "want to be daemon (job variable flow_user), which flow_users in inventory.yml does not have" in result.text
    assert result.changes == 0


@pytest.mark.parametrize(("unit", "most"), [("prefect-worker-cpu.service", 4.5), ("pag-run.service", 2.0)])
def test_units_are_as_closed_as_they_can_be(on: On, unit: str, most: float) -> None:
    said = on(CPU_WORKERS[0]).check_output(f"systemd-analyze security --no-pager {unit} | tail -n 1")
    assert float(said.split(":")[1].split()[0]) <= most, said
