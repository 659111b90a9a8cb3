#!/usr/bin/env python3
"""Follow the README's operator's guide on a cluster's controller, word for word."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import readme
import snapshot
from cluster_site import inventory_of, secrets_of
from machines import Machines

CONTROLLER = "pag-controller"
CONFIGURE = "controller-configure"
FLOWS = "controller-flows"

_RECAP = re.compile(
    r"^(?P<host>[\w.-]+)\s+: ok=(?P<ok>\d+)\s+changed=(?P<changed>\d+)\s+"
    r"unreachable=(?P<lost>\d+)\s+failed=(?P<failed>\d+)"
)
_WHERE = "guide-is-now-in:"


@dataclass(frozen=True)
class Outcome:
    """What came of one block of the README's commands."""

    block: str
    check: bool
    """Whether the playbooks ran with ``--check``."""
    returncode: int
    seconds: float
    received: int
    """Bytes that the machines received over the network meanwhile."""
    changed: dict[str, int]
    """By host, from the playbooks' recaps."""
    failed: dict[str, int]
    touched: list[str]
    """With *check*: what changed on the machines' disks all the same."""
    output: str

    @property
    def tasks(self) -> int:
        """How many tasks ran on all hosts together, from the playbooks' recaps."""
        return sum(int(match["ok"]) for match in map(_RECAP.match, self.output.splitlines()) if match)


class Guide:
    """The guide, and the place in it where the operator is on this cluster's controller."""

    def __init__(self, machines: Machines, text: Path = readme.README) -> None:
        self.machines = machines
        self._text = text

    @property
    def _record(self) -> Path:
        return self.machines.directory / "guide.json"

    def outcomes(self) -> list[Outcome]:
        """Return what was done on this cluster so far, in order."""
        if not self._record.exists():
            return []
        return [Outcome(**entry) for entry in json.loads(self._record.read_text())["outcomes"]]

    def run(
        self,
        block: str,
        *,
        check: bool = False,
        values: Mapping[str, str] | None = None,
        site_inventory: str | None = None,
    ) -> Outcome:
        """Run the block's commands where the last block ended.

        With *check*, every playbook gets ``--check``. *values* replaces the guide's placeholders (``NEW_NODE``).
        """
        commands = readme.commands(block, self._text)
        for placeholder, value in (values or {}).items():
            commands = [command.replace(placeholder, value) for command in commands]
        if check:
            commands = [f"{command} --check" if "ansible-playbook " in command else command for command in commands]
        before = snapshot.take(self.machines) if check else {}
        started, received = time.monotonic(), self.machines.traffic()
        if block == CONFIGURE:
            # Here the operator edits the two files that were copied from the examples, before one of them is encrypted.
            edit = 1 + max(index for index, command in enumerate(commands) if command.startswith("cp "))
            returncode, output = self._type(commands[:edit])
            if returncode == 0:
                self._edit(site_inventory or inventory_of(self.machines))
                returncode, more = self._type(commands[edit:])
                output += more
        else:
            returncode, output = self._type(commands)
        recaps = [match for match in map(_RECAP.match, output.splitlines()) if match]
        outcome = Outcome(
            block=block,
            check=check,
            returncode=returncode,
            seconds=round(time.monotonic() - started, 1),
            received=self.machines.traffic() - received,
            changed=_sums((match["host"], int(match["changed"])) for match in recaps),
            failed=_sums((match["host"], int(match["failed"]) + int(match["lost"])) for match in recaps),
            touched=snapshot.differences(before, snapshot.take(self.machines)) if check else [],
            output=output,
        )
        self._save(outcomes=[*self.outcomes(), outcome])
        return outcome

    def _edit(self, site_inventory: str) -> None:
        directory = self._directory()
        self.machines.write(CONTROLLER, f"{directory}/inventory.yml", site_inventory)
        self.machines.write(CONTROLLER, f"{directory}/secrets.yml", secrets_of(self.machines).to_yaml())

    def _directory(self) -> str:
        return str(json.loads(self._record.read_text())["directory"]) if self._record.exists() else "."

    def _save(self, *, directory: str | None = None, outcomes: Sequence[Outcome] | None = None) -> None:
        chosen = self.outcomes() if outcomes is None else outcomes
        content = {"directory": directory or self._directory(), "outcomes": [asdict(outcome) for outcome in chosen]}
        self._record.write_text(json.dumps(content, indent=1) + "\n")

    def _type(self, commands: Sequence[str]) -> tuple[int, str]:
        """Type commands on the controller until one fails; return the exit code and what was printed."""
        script = "\n".join([f"cd {shlex.quote(self._directory())}", *commands, f'echo "{_WHERE}$PWD"'])
        finished = subprocess.run(
            ["ssh", "-F", self.machines.ssh_config, CONTROLLER, f"bash -e -c {shlex.quote(script)}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        output, found, directory = finished.stdout.rpartition(_WHERE)
        if found:
            self._save(directory=directory.strip())
        return finished.returncode, output if found else finished.stdout


def _sums(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for host, number in pairs:
        sums[host] = sums.get(host, 0) + number
    return sums


def main(arguments: Sequence[str]) -> int:
    """Run blocks of the guide; for molecule's playbooks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--check", action="store_true", help="give --check to every playbook")
    parser.add_argument("--value", action="append", default=[], metavar="PLACEHOLDER=VALUE")
    parser.add_argument("blocks", nargs="+", metavar="BLOCK")
    options = parser.parse_args(arguments)
    guide = Guide(Machines(options.cluster))
    blocks = list(options.blocks)
    if options.check and FLOWS in blocks and not any(done.block == blocks[0] for done in guide.outcomes()):
        # Flows are deployed to a server that answers; there is none on virgin machines, and that is refused.
        blocks.remove(FLOWS)
    for block in blocks:
        outcome = guide.run(block, check=options.check, values=dict(value.split("=", 1) for value in options.value))
        changed = sum(outcome.changed.values())
        print(outcome.output)
        print(f"guide: {block} ended with {outcome.returncode} in {outcome.seconds} s, total changes {changed}")
        if outcome.returncode != 0:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
