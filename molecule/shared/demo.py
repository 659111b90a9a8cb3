#!/usr/bin/env python3
"""The demo: a bundle, an airgapped cluster installed from it by the README's commands, and a run of every flow."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import readme
from cluster_site import secrets_of
from guide import CONTROLLER, Guide
from machines import Machines, MachinesError, unprivileged
from prefect_api import ApiError, PrefectApi

CLUSTER = "demo"
REPOSITORY = Path(__file__).resolve().parent.parent.parent
BUNDLE = REPOSITORY / "pag-software-bundle.tar.gz"
_TESTBED = REPOSITORY / "molecule/testbed/testbed.py"

_PACKAGES = (
    "ca-certificates",
    "debian-archive-keyring",
    "debootstrap",
    "e2fsprogs",
    "iproute2",
    "nftables",
    "openssh-client",
    "python3-venv",
    "rsync",
    "systemd-container",
)

# How many lines of a failed command's output are shown.
_TAIL_LINES = 60


class DemoError(Exception):
    """The demo cannot go on; the message says where and why."""


@dataclass
class Report:
    """What the steps took."""

    rows: list[tuple[str, float, int]] = field(default_factory=list)
    """Step, seconds, bytes moved."""

    @contextlib.contextmanager
    def step(self, name: str, traffic: Callable[[], int]) -> Iterator[None]:
        """Time the step; *traffic* is read before and after it."""
        print(f"\n== {name}", flush=True)
        started, before = time.monotonic(), traffic()
        yield
        seconds, moved = time.monotonic() - started, traffic() - before
        self.rows.append((name, seconds, moved))
        print(f"   {seconds:.1f} s, {_megabytes(moved)}", flush=True)

    def table(self) -> str:
        """Return the steps as a table."""
        width = max(len(name) for name, _, _ in self.rows)
        lines = [f"{'step':<{width}}  seconds  bytes moved", f"{'-' * width}  -------  -----------"]
        lines += [f"{name:<{width}}  {seconds:7.1f}  {moved:11,d}" for name, seconds, moved in self.rows]
        total = sum(seconds for _, seconds, _ in self.rows)
        moved = sum(moved for _, _, moved in self.rows)
        return "\n".join([*lines, f"{'all':<{width}}  {total:7.1f}  {moved:11,d}"])


def up() -> None:
    """Do all of it; the cluster stays up."""
    report, machines = Report(), Machines(CLUSTER)
    with report.step("install packages of this host's distribution", _downloaded):
        if subprocess.run(["bash", REPOSITORY / "molecule/shared/install-packages.sh", *_PACKAGES]).returncode != 0:
            raise DemoError("The packages that the demo needs could not be installed, see above.")
    with report.step("build the bundle, and the machines' base", _downloaded):
        _build()
    with report.step("boot four machines", lambda: 0):
        machines.testbed("up")
    with report.step("carry the bundle to the controller", machines.traffic):
        machines.copy([BUNDLE], CONTROLLER, "")
    guide = Guide(machines)
    for block, name in (
        ("controller-install", "install Ansible on the controller"),
        ("controller-configure", "describe the cluster"),
        ("controller-server", "install the server"),
        ("controller-worker", "install the workers"),
        ("controller-flows", "deploy the flows"),
    ):
        with report.step(name, machines.traffic):
            for command in readme.commands(block):
                print(f"   $ {command}")
            outcome = guide.run(block)
            if outcome.returncode != 0:
                raise DemoError(f"{_tail(outcome.output)}\n\nThe README's commands failed at {name!r}, see above.")
            for line in outcome.output.splitlines():
                if re.match(r"pag-[\w-]+ +: ok=", line):
                    print(f"   {line}")
    with report.step("run the flows", machines.traffic):
        _run_flows(machines)
    escapes = machines.escapes()
    print(f"\n{report.table()}\n")
    print(_how_to_go_on(machines))
    print(f"{escapes} packets tried to leave the isolated network.")
    if escapes:
        raise DemoError(f"Machines tried to leave the isolated network:\n{machines.escaped()}")


def _build() -> None:
    """Build the bundle by the README's command while the machines' base is made, where it is not there yet."""
    base = subprocess.Popen(
        [sys.executable, _TESTBED, "base"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        for command in readme.commands("bootstrapper"):
            print(f"   $ {command}", flush=True)
            finished = subprocess.run(unprivileged(["bash", "-c", command]), cwd=REPOSITORY, stdin=subprocess.DEVNULL)
            if finished.returncode != 0:
                raise DemoError("The bundle could not be built, see above.")
        said, _ = base.communicate()
        if base.returncode != 0:
            raise DemoError(said.decode().strip())
    finally:
        if base.poll() is None:
            base.terminate()
            base.wait()


def _run_flows(machines: Machines) -> None:
    """Start a run of every deployment through the API and wait for all of them."""
    with machines.tunnel() as port:
        api = PrefectApi(f"http://localhost:{port}/api", secrets_of(machines).basic_auth)
        names = {}
        for deployment in api.deployments():
            flow = api.request("GET", f"/flows/{deployment['flow_id']}")["name"]
            names[f"{flow}/{deployment['name']}"] = deployment["work_pool_name"]
        if len(names) < 3:
            raise DemoError(f"Three deployments were expected, the server has {sorted(names)}.")
        runs = {name: api.start(name) for name in sorted(names)}
        failed = []
        for name, run in runs.items():
            ended = api.wait(run)
            print(f"   {name} in {names[name]}: {ended['state_name']} after {ended['total_run_time']:.1f} s")
            if ended["state_type"] != "COMPLETED":
                failed.append(name)
                print(api.logs(run))
        if failed:
            raise DemoError(f"Not completed: {', '.join(failed)}.")
        print(_cow(api, runs))


def _cow(api: PrefectApi, runs: dict[str, str]) -> str:
    """Return what demo2 logged: the cow, and the interpreter it ran from."""
    wanted = ("^__^", "/opt/prefect/envs/")
    for _ in range(20):  # logs arrive in batches
        for run in runs.values():
            log = api.logs(run)
            if all(part in log for part in wanted):
                own = re.search(r"^Beginning flow run[^\n]*\n(.*)^Finished in state", log, re.MULTILINE | re.DOTALL)
                return f"\n{own[1] if own else log}"
        time.sleep(0.5)
    raise DemoError("No run logged a cow and an interpreter below /opt/prefect/envs/.")


def _how_to_go_on(machines: Machines) -> str:
    login = machines.directory / "secrets.json"
    # The key and the login are root's.
    sudo = "sudo " if os.environ.get("SUDO_USER") else ""
    return f"""The cluster stays up.
  UI      {sudo}ssh -F {machines.ssh_config} -L 4200:localhost:4200 -N {CONTROLLER}
          then http://localhost:4200, with the login that "{sudo}cat {login}" shows
  shell   ./demo.sh ssh controller      (also: server, worker-1, worker-2)
  remove  ./demo.sh down
"""


def _downloaded() -> int:
    """Return how many bytes this host has received over its real interfaces since it booted."""
    total = 0
    for interface in Path("/sys/class/net").iterdir():
        if not (interface / "device").exists() and interface.name != "eth0":
            continue
        total += int((interface / "statistics/rx_bytes").read_text())
    return total


def _tail(output: str) -> str:
    return "\n".join(output.splitlines()[-_TAIL_LINES:])


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def main(arguments: Sequence[str]) -> int:
    """Run the demo's command and return the exit code."""
    machines = Machines(CLUSTER)
    try:
        match list(arguments):
            case []:
                up()
            case ["down"]:
                machines.testbed("down")
            case ["ssh", machine, *command]:
                return subprocess.run(
                    [sys.executable, _TESTBED, "ssh", "--cluster", CLUSTER, machine, *command]
                ).returncode
            case _:
                print("usage: ./demo.sh [down | ssh MACHINE [COMMAND...]]", file=sys.stderr)
                return 2
    except (DemoError, MachinesError, ApiError, readme.ReadmeError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
