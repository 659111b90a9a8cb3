#!/usr/bin/env python3
"""How long flow runs take to start, and how many go through, against Prefect's own worker for processes.

    sudo python3 benches/runs.py [--cluster NAME] [--runs N] [--many N] [--plain-many N] [--imports N] [--output FILE]
                                 [--keep] [--standing] [--first]

Runs in the tests' environment, as root: all machines are the testbed's, on this one host, and share its processors.
It prints a table, and writes FILE.json with every figure and FILE.md with the table (default: docs/runs). Ctrl-C and
every error take the cluster down; so does the next run. ``--keep`` leaves it, ``--standing`` measures on it once more.

The other side is ``prefect worker start --type process`` with a pool of its own, in the same environment, with the same
settings, on the same machines; runs go to one and the other by turns, and who has no run is idle. Both start the same
flow in the same way (``benches/runs_flow``), which notes how far its process was when. All machines have one clock.
Where the host is not quiet, ``--first`` has the machines run before all else on it, with many runs on one processor.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(_ROOT / "molecule/shared"), str(_ROOT / "benches")]

from cluster import Bench as ClusterBench  # noqa: E402
from cluster import bring_up  # noqa: E402
from cluster_site import secrets_of  # noqa: E402
from guide import CONTROLLER  # noqa: E402
from machines import Machines, MachinesError  # noqa: E402
from prefect_api import ApiError, PrefectApi  # noqa: E402
from processors import seconds_by_unit  # noqa: E402

_WORKERS = ("pag-worker-1", "pag-worker-2")
_FLOW, _ENTRYPOINT = "bench-runs/demo1", "main.py:empty"
_FLOW_FILES = _ROOT / "benches/runs_flow"
_NOTES = "/srv/bench-runs"
# The side that is measured, and the one it is measured against: names of their pools.
_PAG, _PLAIN = "cpu-pool", "bench-plain"
_SIDES = (_PAG, _PLAIN)
_BASE = "/opt/prefect/pixi-env/run"
_MOST_START, _MOST_RATIO, _MOST_BOX = 2.0, 1.3, 0.1
# What is shown of a run's processor time, in seconds.
_LEAST_PROCESSORS = 0.005
_FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_PAGE = 200
# What one run takes at most, of many.
_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Run:
    """When one run was how far, in seconds since the epoch."""

    scheduled: float
    pending: float
    """Its worker has it."""
    forked: float
    """The process that becomes the engine is there; where there is a box, it is yet to be closed."""
    entered: float
    """The engine's interpreter has begun."""
    imported: float
    running: float
    called: float
    """The flow's own first line."""
    completed: float
    load: float
    """Of the host, when it was scheduled."""

    @property
    def start(self) -> float:
        """Seconds from scheduled to Running."""
        return self.running - self.scheduled

    @property
    def launch(self) -> float:
        """Seconds from picked up to the engine's first line."""
        return self.entered - self.pending


# What is shown of runs: from one moment to another.
_PARTS = (
    ("scheduled to Running", "scheduled", "running"),
    ("… scheduled to picked up (the poll)", "scheduled", "pending"),
    ("… to the engine's process", "pending", "forked"),
    ("… to the engine's interpreter", "forked", "entered"),
    ("… to the end of its imports", "entered", "imported"),
    ("… to Running", "imported", "running"),
    ("picked up to the engine's interpreter", "pending", "entered"),
    ("picked up to Running", "pending", "running"),
    ("Running to Completed", "running", "completed"),
    ("picked up to Completed", "pending", "completed"),
)


@dataclass(frozen=True)
class Many:
    """What came of many runs at once."""

    count: int
    seconds: float
    """From the moment that they may begin to the last one's end."""
    states: dict[str, int]
    lost: int
    """Runs that did not complete, or not exactly once."""
    load: float
    processors: dict[str, float]
    """Processor seconds for each of them, by unit of the machines."""

    @property
    def per_minute(self) -> float:
        """How many runs went through in a minute."""
        return 60 * self.count / self.seconds


@dataclass
class Bench:
    """The machines, and what was found so far."""

    machines: Machines
    api: PrefectApi
    deployments: dict[str, str]
    """By side."""
    query_seconds: float
    first: bool
    """Whether the machines ran before all others."""
    singles: dict[str, list[Run]] = field(default_factory=lambda: {side: [] for side in _SIDES})
    many: dict[str, Many] = field(default_factory=dict)
    imports: dict[str, list[float]] = field(default_factory=dict)

    def create(self, side: str) -> str:
        """Create a run that may begin at once; return its id."""
        body = {"state": {"type": "SCHEDULED"}}
        return str(self.api.request("POST", f"/deployments/{self.deployments[side]}/create_flow_run", body)["id"])

    def states(self, run: str) -> list[dict[str, Any]]:
        """Return the states that a run has had."""
        return list(self.api.request("GET", f"/flow_run_states/?flow_run_id={run}"))

    def notes(self) -> dict[str, list[dict[str, float]]]:
        """Return what runs noted, by run: one entry for each time that it was started."""
        found: dict[str, list[dict[str, float]]] = {}
        for worker in _WORKERS:
            said = self.machines.ssh(
                worker, f"cd {_NOTES} && sudo grep --with-filename --recursive '' . || test $? = 1"
            )
            for line in said.splitlines():
                name, _, note = line.removeprefix("./").partition(":")
                found.setdefault(name, []).append(json.loads(note))
        return found


def deploy(machines: Machines, bench: ClusterBench) -> None:
    """Deploy the flow as an operator does, in an environment that the bundle has."""
    machines.ssh(
        CONTROLLER, "rm -rf bench-runs && mkdir bench-runs && cp -r pag-software-bundle/flows/demo1 bench-runs/"
    )
    machines.copy(sorted(_FLOW_FILES.glob("*.py")), CONTROLLER, f"{_FLOW}/")
    bench.play("prefect-flow-deployment.yml", "-e", f"flow_dir=~/{_FLOW}", "-e", f"entrypoint={_ENTRYPOINT}")
    for worker in _WORKERS:
        machines.ssh(worker, f"sudo rm -rf {_NOTES} && sudo install -d -o prefect -g prefect {_NOTES}")


@contextlib.contextmanager
def before_others(machines: Machines, processors: set[int]) -> Iterator[None]:
    """Have all programs of the machines, and what they start, run before all others on these processors of the host."""
    allowed = os.sched_getaffinity(0)
    _schedule(machines, os.SCHED_RR, 1, processors)
    try:
        yield
    finally:
        _schedule(machines, os.SCHED_OTHER, 0, allowed)


def _schedule(machines: Machines, policy: int, priority: int, processors: set[int]) -> None:
    command = f"--machine=pag-{machines.cluster}-pag-"
    children: dict[int, list[int]] = {}
    found: list[int] = []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parent = int((directory / "stat").read_text(encoding="utf-8").rpartition(") ")[2].split()[1])
            children.setdefault(parent, []).append(int(directory.name))
            words = (directory / "cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
            if words[0] == "systemd-nspawn" and any(word.startswith(command) for word in words):
                found.append(int(directory.name))
    while found:
        process = found.pop()
        found += children.get(process, [])
        for thread in Path(f"/proc/{process}/task").glob("*"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), processors)
                os.sched_setscheduler(int(thread.name), policy, os.sched_param(priority))


@contextlib.contextmanager
def plain_workers(machines: Machines) -> Iterator[None]:
    """Have Prefect's own worker beside ours, on both machines, with the same settings."""
    worker = f"prefect worker start --type process --pool {_PLAIN} --limit 4 --name"
    options = "--quiet --collect --uid=prefect --gid=prefect --working-directory=/opt/prefect"
    environment = "--property=EnvironmentFile=/etc/prefect/worker-cpu.env"
    try:
        for name in _WORKERS:
            command = f"systemd-run --unit={_PLAIN} {options} {environment} -- {_BASE} {worker} {name}"
            machines.ssh(name, f"sudo {command}")
        yield
    finally:
        for name in _WORKERS:
            machines.ssh(name, f"sudo systemctl stop {_PLAIN}", check=False)


@contextlib.contextmanager
def stopped(machines: Machines, name: str) -> Iterator[None]:
    """Have no worker of either side on a machine."""
    units = f"prefect-worker-cpu {_PLAIN}"
    machines.ssh(name, f"sudo systemctl kill --kill-whom=main --signal=STOP {units}")
    try:
        yield
    finally:
        machines.ssh(name, f"sudo systemctl kill --kill-whom=main --signal=CONT {units}")


def forget(api: PrefectApi) -> None:
    """Have nothing left of an earlier measurement, above all no runs that were never begun."""
    # Where there was none, the server says that it knows neither.
    with contextlib.suppress(ApiError):
        flow = api.request("GET", "/flows/name/bench-runs")
        api.request("DELETE", f"/flows/{flow['id']}")
    with contextlib.suppress(ApiError):
        api.request("DELETE", f"/work_pools/{_PLAIN}")


def two_deployments(api: PrefectApi) -> dict[str, str]:
    """Have the flow started by both sides, and in a way that notes times; return the deployments' ids."""
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(ApiError):
            if len(api.workers(_PLAIN)) == len(_WORKERS):
                break
        if time.monotonic() > deadline:
            raise ApiError(f"Prefect's own workers do not come to {_PLAIN}.")
        time.sleep(0.5)
    ours = api.request("GET", "/deployments/name/bench-runs/empty")
    variables = ours["job_variables"]
    begin = f"{variables['command'].split(' ')[0]} python {ours['path']}/begin.py"
    api.request("PATCH", f"/deployments/{ours['id']}", {"job_variables": {**variables, "command": begin}})
    kept = ("flow_id", "entrypoint", "path", "pull_steps")
    # Environment, command and directory; Prefect's own worker knows no more.
    known = {name: variables[name] for name in ("working_dir", "env") if name in variables} | {"command": begin}
    wanted = {name: ours[name] for name in kept} | {"name": "plain", "work_pool_name": _PLAIN, "job_variables": known}
    return {_PAG: ours["id"], _PLAIN: api.request("POST", "/deployments/", wanted)["id"]}


def single_runs(bench: Bench, count: int) -> None:
    """Measure runs one after the other, on one worker that has nothing else to do, by turns on both sides."""
    runs: list[tuple[str, str, float]] = []
    for number in range(count):
        for side in _SIDES if number % 2 else reversed(_SIDES):
            # At no fixed moment between two polls.
            time.sleep(1 + random.uniform(0, bench.query_seconds))  # noqa: S311
            load = os.getloadavg()[0]
            run = bench.create(side)
            bench.api.wait(run)
            runs.append((side, run, load))
            print(f"\r  single runs: {len(runs)} of {2 * count}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    notes = bench.notes()
    for side, run, load in runs:
        if len(notes.get(run, [])) != 1:
            sys.exit(f"The run {run} of {side} was called {len(notes.get(run, []))} times.")
        bench.singles[side].append(_times(bench.states(run), notes[run][0], load))


def _times(states: Iterable[dict[str, Any]], note: dict[str, float], load: float) -> Run:
    first: dict[str, float] = {}
    for state in states:
        first.setdefault(state["type"], _seconds(state["timestamp"]))
    return Run(
        scheduled=first["SCHEDULED"],
        pending=first["PENDING"],
        running=first["RUNNING"],
        completed=first["COMPLETED"],
        load=load,
        **note,
    )


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()


def many_runs(bench: Bench, side: str, count: int) -> None:
    """Measure how long so many runs take on both workers; none may be lost, or run twice."""
    load = os.getloadavg()[0]
    bench.api.request("PATCH", f"/work_pools/{side}", {"is_paused": True})
    try:
        with ThreadPoolExecutor(4) as pool:
            runs = set(pool.map(lambda _: bench.create(side), range(count)))
    finally:
        bench.api.request("PATCH", f"/work_pools/{side}", {"is_paused": False})
    began, before = time.time(), seconds_by_unit(bench.machines.cluster)
    wanted = {"id": {"any_": sorted(runs)}, "state": {"type": {"any_": list(_FINAL)}}}
    patience = time.monotonic() + _PATIENCE_SECONDS * count
    while (ended := bench.api.request("POST", "/flow_runs/count", {"flow_runs": wanted})) < count:
        print(f"\r  {count} runs of {side}: {ended} have ended", end="", file=sys.stderr, flush=True)
        if time.monotonic() > patience:
            print(f"\n  gave up with {ended} of {count}", end="", file=sys.stderr)
            break
        time.sleep(2)
    print(file=sys.stderr)
    taken = seconds_by_unit(bench.machines.cluster)
    taken.subtract(before)
    found = _filtered(bench.api, wanted["id"])
    last = max((_seconds(run["end_time"]) for run in found if run["end_time"]), default=time.time())
    notes = bench.notes()
    with ThreadPoolExecutor(4) as pool:
        histories = dict(zip(sorted(runs), pool.map(bench.states, sorted(runs)), strict=True))
    lost = [run for run in runs if not _once(histories[run], notes.get(run, []))]
    states = dict(Counter(run["state_name"] for run in found))
    load = (load + os.getloadavg()[0]) / 2
    processors = {unit: seconds / count for unit, seconds in taken.most_common()}
    bench.many[side] = Many(count, last - began, states, len(lost), load, processors)
    for run in lost[:10]:
        types = [state["type"] for state in histories[run]]
        print(f"  lost: {run} was called {len(notes.get(run, []))} times, {types}", file=sys.stderr)


def _once(states: Iterable[dict[str, Any]], notes: Sequence[object]) -> bool:
    """Whether a run was started, called and completed exactly once."""
    types = Counter(state["type"] for state in states)
    # It may be said to be late, and to be submitted.
    well = set(types) == {"SCHEDULED", "PENDING", "RUNNING", "COMPLETED"}
    return well and (types["RUNNING"], types["COMPLETED"], len(notes)) == (1, 1, 1)


def _filtered(api: PrefectApi, ids: dict[str, list[str]]) -> list[dict[str, Any]]:
    wanted = ids["any_"]
    pages = [wanted[first : first + _PAGE] for first in range(0, len(wanted), _PAGE)]
    query = [{"flow_runs": {"id": {"any_": page}}, "limit": _PAGE} for page in pages]
    return [run for body in query for run in api.request("POST", "/flow_runs/filter", body)]


def bare_imports(bench: Bench, count: int) -> None:
    """Measure how long the environment's interpreter takes for the engine's imports alone, on the worker."""
    program = (
        "import subprocess, sys, time\n"
        "for _ in range(int(sys.argv[1])):\n"
        "    start = time.perf_counter()\n"
        "    subprocess.run(sys.argv[2:], check=True)\n"
        "    print(time.perf_counter() - start)\n"
    )
    directory = bench.machines.ssh(_WORKERS[0], "ls -d /opt/prefect/flows/demo1/*/.environment/ | head -n 1").strip()
    for code in ("pass", "import prefect.engine", "import prefect.flow_engine"):
        command = f"python3 - {count} {directory}env/bin/python -c '{code}'"
        said = bench.machines.ssh(_WORKERS[0], f"sudo -u prefect {command}", stdin=program)
        bench.imports[code] = [float(line) for line in said.split()]


def table(bench: Bench) -> str:
    """Return what was found as a table in Markdown."""
    lines = ["| what | pag | plain worker | difference | ratio |", "|---|---:|---:|---:|---:|"]
    if bench.singles[_PAG]:
        for what, first, last in _PARTS:
            sides = [[getattr(run, last) - getattr(run, first) for run in bench.singles[side]] for side in _SIDES]
            ours, theirs = map(median, sides)
            cells = " | ".join(f"{median(values):.3f} s ({_spread(values)})" for values in sides)
            lines.append(f"| {what} | {cells} | {ours - theirs:+.3f} s | {ours / theirs:.2f} |")
    for code, values in bench.imports.items():
        lines.append(f"| `python -c '{code}'` | {median(values):.3f} s ({_spread(values)}) | | | |")
    if bench.many:
        ours, theirs = bench.many[_PAG].per_minute, bench.many[_PLAIN].per_minute
        what = f"runs a minute, of {bench.many[_PAG].count} and {bench.many[_PLAIN].count}"
        lines.append(f"| {what} | {ours:.1f} | {theirs:.1f} | {ours - theirs:+.1f} | {ours / theirs:.2f} |")
        lines.append(f"| lost, or run twice | {bench.many[_PAG].lost} | {bench.many[_PLAIN].lost} | | |")
        lines += _processor_lines(bench)
    return "\n".join(lines)


def _processor_lines(bench: Bench) -> list[str]:
    """Return a line for each unit that takes something of the processors for a run, and one for all."""
    ours, theirs = (bench.many[side].processors for side in _SIDES)
    lines = [
        _processor_line(f"… by {unit}", ours.get(unit, 0.0), theirs.get(unit, 0.0))
        for unit in sorted({*ours, *theirs}, key=lambda unit: -max(ours.get(unit, 0.0), theirs.get(unit, 0.0)))
        if max(ours.get(unit, 0.0), theirs.get(unit, 0.0)) >= _LEAST_PROCESSORS
    ]
    return [
        _processor_line("processor seconds for each of many runs", sum(ours.values()), sum(theirs.values())),
        *lines,
    ]


def _processor_line(what: str, ours: float, theirs: float) -> str:
    return f"| {what} | {ours:.3f} s | {theirs:.3f} s | {ours - theirs:+.3f} s | |"


def _spread(values: Sequence[float]) -> str:
    """Return the middle half of some values."""
    if len(values) < 2:
        return "one"
    low, _, high = quantiles(values, n=4, method="inclusive")
    return f"{low:.3f} to {high:.3f}"


def verdicts(bench: Bench) -> list[tuple[str, float, float]]:
    """Return what is held against a bound: what, the figure, and the bound."""
    found: list[tuple[str, float, float]] = []
    if bench.singles[_PAG]:
        start = median(run.start for run in bench.singles[_PAG])
        found.append(("scheduled to Running, seconds", start, _MOST_START))
        if bench.imports:
            least = median(bench.imports["import prefect.engine"]) + bench.query_seconds
            found.append(("the same, over the engine's imports and the poll's interval", start / least, _MOST_RATIO))
        what = "picked up to the engine's interpreter, beyond the plain worker's, seconds"
        found.append((what, cost_of_the_box(bench), _MOST_BOX))
    if bench.many:
        found.append(("runs that were lost, or ran twice", bench.many[_PAG].lost, 0))
    return found


def cost_of_the_box(bench: Bench) -> float:
    """Return the seconds that a box costs each run."""
    ours, theirs = (median(run.launch for run in bench.singles[side]) for side in _SIDES)
    return ours - theirs


def write(bench: Bench, output: Path) -> None:
    """Write the figures and the table."""
    host = f"{os.cpu_count()} processors, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    document = {
        "host": host,
        "date": time.strftime("%Y-%m-%d"),
        "query_seconds": bench.query_seconds,
        "first": bench.first,
        "singles": {side: [asdict(run) for run in runs] for side, runs in bench.singles.items()},
        "many": {side: asdict(many) for side, many in bench.many.items()},
        "imports": bench.imports,
    }
    output.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    lines = [note(bench, host), "", table(bench), "", *(f"* {line}" for line in bounds(bench)), ""]
    output.with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")


def note(bench: Bench, host: str) -> str:
    """Return under which circumstances it was measured."""
    loads = [run.load for runs in bench.singles.values() for run in runs] + [many.load for many in bench.many.values()]
    load = f"{min(loads):.1f} to {max(loads):.1f}" if loads else "unknown"
    before = "; the machines ran before all others, with many runs on one processor" if bench.first else ""
    return (
        f"Measured by `benches/runs.py` on one host ({host}) that all machines share, on {time.strftime('%Y-%m-%d')}, "
        f"with a load of {load}, which is its own and that of others{before}. Workers ask for runs every "
        f"{bench.query_seconds:g} s; {len(bench.singles[_PAG])} single runs on each side by turns: the median, and the "
        "middle half in parentheses."
    )


def bounds(bench: Bench) -> list[str]:
    """Return what was to be kept, and whether it was, in words."""
    return [
        f"{what}: {figure:.2f}, at most {bound} wanted{'' if figure <= bound else ': **not kept**'}"
        for what, figure, bound in verdicts(bench)
    ]


def measure(machines: Machines, options: argparse.Namespace) -> Bench:
    """Measure everything on a cluster that stands."""
    login = secrets_of(machines).basic_auth
    with machines.tunnel() as port:
        forget(PrefectApi(f"http://localhost:{port}/api", login))
    deploy(machines, ClusterBench(machines, 1))
    ask = "sudo sed -n 's/^PREFECT_WORKER_QUERY_SECONDS=\"\\(.*\\)\"$/\\1/p' /etc/prefect/worker-cpu.env"
    query_seconds = float(machines.ssh(_WORKERS[0], ask))
    with machines.tunnel() as port, plain_workers(machines):
        api = PrefectApi(f"http://localhost:{port}/api", login)
        bench = Bench(machines, api, two_deployments(api), query_seconds, options.first)
        all_of_them = os.sched_getaffinity(0)
        with before_others(machines, all_of_them) if options.first else contextlib.nullcontext():
            if options.imports:
                bare_imports(bench, options.imports)
            if options.runs:
                with stopped(machines, _WORKERS[1]):
                    single_runs(bench, options.runs)
        # So many take minutes, in which others want something of the host too.
        with before_others(machines, {min(all_of_them)}) if options.first else contextlib.nullcontext():
            if options.many and options.plain_many:
                many_runs(bench, _PLAIN, options.plain_many)
                many_runs(bench, _PAG, options.many)
    return bench


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write; return 0 when every bound is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster", default="bench", help="name of the cluster that is made, and taken down")
    parser.add_argument("--runs", type=int, default=20, help="runs one after the other, on each side")
    parser.add_argument("--many", type=int, default=500, help="runs at once on our workers")
    parser.add_argument("--plain-many", type=int, default=100, help="runs at once on Prefect's own workers")
    parser.add_argument("--imports", type=int, default=15, help="how often the imports are measured alone")
    parser.add_argument("--output", type=Path, default=_ROOT / "docs/runs")
    parser.add_argument("--keep", action="store_true", help="leave the machines running")
    parser.add_argument(
        "--standing", action="store_true", help="measure on a cluster that was left running, and leave it"
    )
    parser.add_argument("--first", action="store_true", help="run the machines before all else on this host")
    options = parser.parse_args(arguments)
    machines = Machines(options.cluster)
    # As Ctrl-C does, so that the cluster is taken down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if not options.standing:
            bring_up(ClusterBench(machines, 1))
        bench = measure(machines, options)
    except (MachinesError, ApiError) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        if not options.keep and not options.standing:
            machines.testbed("down")
    print(table(bench))
    for line in bounds(bench):
        print(line)
    write(bench, options.output)
    return 0 if all(figure <= bound for _, figure, bound in verdicts(bench)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
