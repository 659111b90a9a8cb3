"""Playbooks that are killed at random tasks, and what nodes are like afterwards."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field

import snapshot
from guide import CONTROLLER
from machines import Machines
from playbooks import Result, command, play
from scenario_log import report

_LOG = "killed.log"
_PID = "killed.pid"

# What differs from one installation to the next: random keys and names, and what services and packages keep for
# themselves.
VOLATILE = (
    r"^/opt/prefect/\.prefect/(?!profiles)"
    # Bytecode is called after the inode and the times of its source, what uv keeps by chance; it notes wheels' times.
    r"|^/opt/prefect/cache/(bytecode|uv)(/|$)|^/opt/prefect/.*\.dist-info/(RECORD|uv_cache\.json)$"
    r"|^/var/(lib|cache)/prefect-"
    r"|^/var/(cache|backups)/|^/var/lib/(apt|dpkg|pag|postgresql|nginx|ucf|systemd)(/|$)"
    r"|^/etc/ssl/|^/etc/postgresql/.*/pg_hba.conf$"
    r"|^/etc/(passwd|shadow|group|gshadow|subuid|subgid)-?$"
)
# Of what differs, so many lines are shown.
_SHOWN = 40
_UNIT_PROPERTIES = "Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload"


@dataclass
class Killer:
    """Runs playbooks on the controller and kills them with all their processes."""

    machines: Machines
    random: random.Random = field(default_factory=random.Random)

    def kill(self, arguments: Sequence[str], tasks: int) -> bool:
        """Run a playbook and kill it when it begins a random one of *tasks*; return whether it was killed."""
        last = self.random.randint(1, tasks)
        playbook = command(*arguments, prefix=f"echo $$ > ~/{_PID}; exec")
        # What an earlier one left would be taken for this one's.
        self.machines.ssh(CONTROLLER, f"rm -f {_PID} {_LOG}; touch {_LOG}")
        script = f"setsid --wait bash -c '{playbook}' > {_LOG} 2>&1"
        started = subprocess.Popen(
            ["ssh", "-F", self.machines.ssh_config, CONTROLLER, script], stdin=subprocess.DEVNULL
        )
        try:
            # On the controller, so that it is quick. Ansible's forks are in sessions of their own, and outlive it.
            watch = (
                f"until [ -s {_PID} ]; do sleep 0.05; done; pid=$(cat {_PID});"
                f" until [ $(grep -c ^TASK {_LOG}) -ge {last} ] || ! kill -0 $pid; do sleep 0.05; done;"
                " kill -9 -- -$pid && echo killed; true"
            )
            return "killed" in self.machines.ssh(CONTROLLER, watch)
        finally:
            started.wait(timeout=600)

    def kill_often(self, arguments: Sequence[str], tasks: int, times: int) -> None:
        """The same, until it was killed so many times.

        One that ends before it is killed counts for nothing, and the next one has no more tasks than that had. Three
        times as many attempts have to do.
        """
        killed, left = 0, tasks
        for attempt in range(1, 3 * times + 1):
            if self.kill(arguments, left):
                killed += 1
            else:
                left = int(self.machines.ssh(CONTROLLER, f"grep -c ^TASK {_LOG}"))
            if killed == times:
                report(f"{' '.join(arguments)} was killed {killed} times in {attempt} at one of {tasks} tasks")
                return
        raise AssertionError(f"{' '.join(arguments)} was killed {killed} times only, not {times}.")


def tasks_of(played: Result) -> int:
    """Return how many tasks a playbook began."""
    return sum(line.startswith("TASK") for line in played.output.splitlines())


def finish(machines: Machines, arguments: Sequence[str]) -> Result:
    """Run the playbook again, to its end."""
    done = play(machines, *arguments)
    assert done.returncode == 0, done.output[-4000:]
    return done


def state(machines: Machines, names: Sequence[str]) -> snapshot.Contents:
    """Return what nodes are like: their files, packages, and units."""
    found: snapshot.Contents = {}
    for name in names:
        files = snapshot.contents(machines, name, also_ignore=VOLATILE)
        found |= {f"{name}:{path}": content for path, content in files.items()}
        found[f"{name} packages"] = _said(machines, name, "dpkg-query --show --showformat='${Package} ${Status}\\n'")
        found[f"{name} users"] = _said(machines, name, "cut -d: -f1,6,7 /etc/passwd | sort")
        found[f"{name} groups"] = _said(machines, name, "cut -d: -f1 /etc/group | sort")
        units = machines.ssh(
            name, "ls /etc/systemd/system /run/systemd/system | grep -E '^(prefect|pag)-|^nginx|^postgresql' ; true"
        ).split()
        for unit in sorted({*units, "nginx.service", "postgresql.service"}):
            found[f"{name} {unit}"] = _said(machines, name, f"systemctl show --property={_UNIT_PROPERTIES} {unit}")
    return found


def _said(machines: Machines, name: str, script: str) -> tuple[int, int, int, str]:
    return 0, 0, 0, machines.ssh(name, script)


def different(before: snapshot.Contents, after: snapshot.Contents) -> list[str]:
    """Return what differs, with both values where it is no file."""
    lines = []
    for line in snapshot.differences(before, after):
        key = line[2:]
        if " " in key.partition("/")[0]:
            old, new = (set(there.get(key, ("",) * 4)[3].splitlines()) for there in (before, after))
            lines.append(f"{line}: - {sorted(old - new)} + {sorted(new - old)}")
        else:
            lines.append(line)
    for line in lines[:_SHOWN]:
        report(line)
    return lines
