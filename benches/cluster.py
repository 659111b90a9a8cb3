#!/usr/bin/env python3
"""How long the playbooks take, against an empty play over the same nodes: bring-up, unchanged, join, deploy, go back.

    sudo python3 benches/cluster.py [--cluster NAME] [--nodes N ...] [--workers N] [--rounds N] [--output FILE] [--keep]

Runs in the tests' environment, as root: all machines are the testbed's, on this one host, and share its processors.
Takes some 25 minutes, 6 GB of memory and of disk with the default of 16 nodes. It prints a table, and writes FILE.json
with every figure, FILE.md with the table, and FILE.png (default: docs/cluster). The picture is drawn by
``benches/cluster_plot.py``, for which uv makes a temporary environment with matplotlib. Ctrl-C and every error take the
cluster down; so does the next run.

"Nodes" are the server and the workers; the controller is none. Seconds are those of the command that the operator
types; bytes are what all machines received over the network meanwhile, the controller too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(_ROOT / "molecule/shared")]

import carry  # noqa: E402
from cluster_site import inventory  # noqa: E402
from guide import CONTROLLER, Guide  # noqa: E402
from machines import Machines, MachinesError  # noqa: E402

_ANSIBLE = "pag-software-bundle/ansible"
_FLOW = "bench/demo1"
# Plays that do nothing: Ansible's share of every playbook. They are not beside the playbooks, where they would count.
_EMPTY = {
    "empty play (one ping a node)": "- {hosts: 'NODES', gather_facts: false, tasks: [{ansible.builtin.ping: {}}]}\n",
    "empty play (Ansible gathers its facts)": "- {hosts: 'NODES', gather_facts: true}\n",
}
_PING = next(iter(_EMPTY))
_BOUND_UNCHANGED, _BOUND_JOIN = 3.0, 1.2


@dataclass(frozen=True)
class Figure:
    """One thing that was measured."""

    what: str
    nodes: int
    seconds: list[float]
    received: int
    """Bytes that the machines received, in the last round."""

    @property
    def median(self) -> float:
        """The middle one of the rounds' seconds."""
        return statistics.median(self.seconds)


@dataclass
class Bench:
    """The machines, and what was found so far."""

    machines: Machines
    rounds: int
    figures: list[Figure] = field(default_factory=list)

    def measure(self, what: str, nodes: int, work: Callable[[], object], rounds: int = 1) -> None:
        """Note how long *work* takes, and what it moves."""
        seconds = []
        for _ in range(rounds):
            received, start = self.machines.traffic(), time.monotonic()
            work()
            seconds.append(round(time.monotonic() - start, 2))
            received = self.machines.traffic() - received
        self.figures.append(Figure(what, nodes, seconds, received))
        print(f"  {what}, {nodes} nodes: {seconds} s, {received:,} bytes", file=sys.stderr, flush=True)

    def play(self, playbook: str, *arguments: str) -> str:
        """Run a playbook on the controller and return what it printed; ends the benchmark when that fails."""
        command = shlex.join(["ansible-playbook", "-i", "inventory.yml", playbook, *arguments])
        return self.machines.ssh(CONTROLLER, f"cd {_ANSIBLE} && {command}")

    def set_workers(self, count: int) -> None:
        """Write the inventory of the server and the first *count* workers."""
        workers = tuple(f"pag-worker-{number}" for number in range(1, count + 1))
        self.machines.write(CONTROLLER, f"{_ANSIBLE}/inventory.yml", inventory(workers, ()))

    def median(self, what: str, nodes: int) -> float:
        """Return the seconds of a figure."""
        return next(figure.median for figure in self.figures if (figure.what, figure.nodes) == (what, nodes))


def bring_up(bench: Bench) -> None:
    """Install the server and two workers on virgin machines."""
    machines = bench.machines
    machines.testbed("up", CONTROLLER, "pag-server", "pag-worker-1", "pag-worker-2")
    if carry.main(["--cluster", machines.cluster, "--python", "system"]) != 0:
        sys.exit("The bundle could not be built or installed, see above.")
    bench.set_workers(2)
    guide = Guide(machines)
    for block, what in (("controller-server", "bring-up: server"), ("controller-worker", "bring-up: two workers")):
        bench.measure(what, 3, lambda block=block: _must(guide, block))  # type: ignore[misc]


def _must(guide: Guide, block: str) -> None:
    outcome = guide.run(block)
    if outcome.returncode != 0:
        sys.exit(f"{outcome.output[-5000:]}\n{block} failed.")


def join(bench: Bench, number: int, rounds: int) -> None:
    """Let worker *number* join; it is made anew for every round."""
    name, what = f"pag-worker-{number}", "join of one node"
    bench.set_workers(number)
    seconds: list[float] = []
    received = 0
    for attempt in range(rounds):
        if attempt:
            bench.machines.testbed("remove", name)
        bench.machines.testbed("add", name)
        before, start = bench.machines.traffic(), time.monotonic()
        bench.play("main.yml", "--tags", "prefect-worker", "--limit", name)
        seconds.append(round(time.monotonic() - start, 2))
        received = bench.machines.traffic() - before
    bench.figures.append(Figure(what, number, seconds, received))
    print(f"  {what}, {number} others: {seconds} s, {received:,} bytes", file=sys.stderr, flush=True)


def grow(bench: Bench, workers: int) -> None:
    """Bring the cluster to so many workers."""
    known = {name for name in bench.machines.addresses() if name.startswith("pag-worker-")}
    wanted = [f"pag-worker-{number}" for number in range(1, workers + 1)]
    if missing := [name for name in wanted if name not in known]:
        bench.machines.testbed("add", *missing)
    bench.set_workers(workers)
    bench.play("main.yml", "--tags", "prefect-worker")


def unchanged(bench: Bench, nodes: int) -> None:
    """Measure main.yml where there is nothing to do, and the plays that do nothing."""
    bench.play("main.yml")
    # The second one asks every node about everything, and finds that all is well; later ones build upon that.
    bench.measure("main.yml unchanged, all tasks", nodes, lambda: bench.play("main.yml", "-e", "receipt_use=false"))
    bench.play("main.yml")
    for what, content in _EMPTY.items():
        bench.machines.write(CONTROLLER, "empty.yml", content.replace("NODES", "prefect_servers:prefect_workers"))
        bench.measure(what, nodes, lambda: bench.play("../../empty.yml"), bench.rounds)
    bench.measure("main.yml unchanged", nodes, lambda: bench.play("main.yml"), bench.rounds)


def flows(bench: Bench, workers: int) -> None:
    """Measure deploying a flow, a changed one, and going back to the version before."""
    bench.set_workers(workers)
    machines = bench.machines
    machines.ssh(CONTROLLER, "rm -rf bench && mkdir bench && cp -r pag-software-bundle/flows/demo1 bench/")
    arguments = ("-e", f"flow_dir=~/{_FLOW}", "-e", "entrypoint=main.py:my_workflow")

    def deploy() -> str:
        return bench.play("prefect-flow-deployment.yml", *arguments)

    bench.measure("deploy a flow", workers, deploy)
    first = _version(machines)
    machines.ssh(CONTROLLER, f"echo '# Changed.' >> {_FLOW}/main.py")
    bench.measure("deploy a changed flow", workers, deploy)
    back = ("-e", "flow=demo1", "-e", f"version={first}")
    bench.measure("go back to the version before", workers, lambda: bench.play("prefect-flow-deployment.yml", *back))


def _version(machines: Machines) -> str:
    """Return the version of the flow that is on the nodes, when there is one."""
    return machines.ssh("pag-worker-1", "ls /opt/prefect/flows/demo1").split()[0]


def table(bench: Bench) -> str:
    """Return the figures as a table in Markdown."""
    pings = {figure.nodes: figure.median for figure in bench.figures if figure.what == _PING}
    lines = ["| what | nodes | seconds | bytes | times the empty play |", "|---|---:|---:|---:|---:|"]
    for figure in bench.figures:
        ratio = f"{figure.median / pings[figure.nodes]:.1f}" if figure.nodes in pings else ""
        lines.append(f"| {figure.what} | {figure.nodes} | {figure.median:.1f} | {figure.received:,} | {ratio} |")
    return "\n".join(lines)


def verdicts(bench: Bench) -> list[tuple[str, float, float]]:
    """Return what is held against a bound: what, the ratio, and the bound."""
    found = [
        (
            f"main.yml unchanged against an empty play, {figure.nodes} nodes",
            figure.median / bench.median(_PING, figure.nodes),
            _BOUND_UNCHANGED,
        )
        for figure in bench.figures
        if figure.what == "main.yml unchanged"
    ]
    joins = [figure for figure in bench.figures if figure.what == "join of one node"]
    if len(joins) > 1:
        what = f"join with {joins[-1].nodes} others against {joins[0].nodes}"
        found.append((what, joins[-1].median / joins[0].median, _BOUND_JOIN))
    return found


def write(bench: Bench, output: Path) -> None:
    """Write the figures, the table and the picture."""
    host = f"{os.cpu_count()} processors, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    document = {"host": host, "figures": [asdict(figure) for figure in bench.figures]}
    output.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    bounds = [
        f"* {what}: {ratio:.2f}, at most {bound} wanted{'' if ratio <= bound else ': **not kept**'}"
        for what, ratio, bound in verdicts(bench)
    ]
    note = (
        f"Measured by `benches/cluster.py` on one host ({host}) that all machines share, in "
        f"{bench.rounds} rounds (the middle one), {time.strftime('%Y-%m-%d')}."
    )
    output.with_suffix(".md").write_text("\n".join([note, "", table(bench), "", *bounds, ""]), encoding="utf-8")
    draw = [
        "uv",
        "run",
        "--no-project",
        "--with",
        "matplotlib==3.10.*",
        "python",
        str(_ROOT / "benches/cluster_plot.py"),
    ]
    finished = subprocess.run([*draw, str(output.with_suffix(".json")), str(output.with_suffix(".png"))])
    if finished.returncode != 0:
        print("The picture could not be drawn, see above; the figures are written.", file=sys.stderr)


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write; return 0 when every bound is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster", default="bench", help="name of the cluster that is made, and taken down")
    parser.add_argument("--nodes", type=int, nargs="+", default=[4, 8, 16], help="sizes to measure, at least 4")
    parser.add_argument("--workers", type=int, default=10, help="workers that flows are deployed to")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of what is short")
    parser.add_argument("--output", type=Path, default=_ROOT / "docs/cluster")
    parser.add_argument("--keep", action="store_true", help="leave the machines running")
    options = parser.parse_args(arguments)
    if min(options.nodes) < 4:
        parser.error("--nodes begins with 4: a server, two workers, and the one that joins")
    bench = Bench(Machines(options.cluster), options.rounds)
    sizes = sorted(options.nodes)
    try:
        bring_up(bench)
        for nodes in sizes:
            # The server is one of them, and the last one joins.
            if nodes in (sizes[0], sizes[-1]):
                grow(bench, nodes - 2)
                join(bench, nodes - 1, min(bench.rounds, 2))
            else:
                grow(bench, nodes - 1)
            unchanged(bench, nodes)
        flows(bench, min(options.workers, sizes[-1] - 1))
    except MachinesError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        if not options.keep:
            bench.machines.testbed("down")
    print(table(bench))
    for what, ratio, bound in verdicts(bench):
        print(f"{what}: {ratio:.2f} (at most {bound})")
    write(bench, options.output)
    return 0 if all(ratio <= bound for _, ratio, bound in verdicts(bench)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
