"""Do a bad thing on a cluster, and hold what came of it against what a refusal is."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import yaml
from cluster_state import State, look
from machines import Machines
from prefect_api import PrefectApi

CONTROLLER = "pag-controller"
BUNDLE = "pag-software-bundle"
SITE = "refusals/site"
"""A copy of the bundle's playbooks on the controller, for inventories and secrets other than the operator's."""

# What a program prints that did not expect what it met.
_ACCIDENTS = ("Traceback (most recent call last)", "MODULE FAILURE", "An exception occurred", "Unexpected failure")
_ACCIDENTS_OF_ANSIBLE = ("is undefined", "object has no attribute", "conditional check", "Error while resolving")
_FAILURE = re.compile(
    r"^(?:failed|fatal): \[[^\]]+\].*?(?:FAILED|UNREACHABLE)! =>(?P<fields>.*\n(?: {4}.*\n|\n(?= {4}))*)"
    r"(?P<ignored>\.\.\.ignoring)?",
    re.MULTILINE,
)
_LONGEST = 700
"""Characters of a sentence."""


@dataclass(frozen=True)
class Refusal:
    """What a command printed, and how it ended."""

    returncode: int
    output: str
    sentences: tuple[str, ...]
    """What it says is wrong: each sentence once."""

    def names(self, *words: str) -> None:
        """Assert that this is a refusal in one sentence that has all of *words* in it."""
        assert self.returncode != 0, f"accepted:\n{self.output}"
        for accident in _ACCIDENTS:
            assert accident not in self.output, self.output
        assert len(self.sentences) == 1, f"{len(self.sentences)} sentences in:\n{self.output}"
        (sentence,) = self.sentences
        for accident in _ACCIDENTS_OF_ANSIBLE:
            assert accident not in sentence, sentence
        missing = [word for word in words if word not in sentence]
        assert not missing, f"{missing} not in: {sentence}"
        assert "\n" not in sentence, sentence
        assert len(sentence) <= _LONGEST, sentence


def refusal_of_program(finished: subprocess.CompletedProcess[str]) -> Refusal:
    """Return the refusal of a program that prints what is wrong on standard error, one line for each sentence.

    What it says about its progress is not counted.
    """
    lines = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    return Refusal(finished.returncode, finished.stdout + finished.stderr, tuple(dict.fromkeys(lines)))


def refusal_of_playbook(finished: subprocess.CompletedProcess[str]) -> Refusal:
    """Return the refusal of ansible-playbook, which prints a failed task's result as YAML.

    What a play ignores counts for nothing, and what it says again with more words, once.
    """
    sentences: dict[str, None] = {}
    for match in _FAILURE.finditer(finished.stdout):
        if match["ignored"]:
            continue
        fields = yaml.safe_load(textwrap.dedent(match["fields"])) or {}
        for line in str(fields.get("msg", match["fields"])).strip().splitlines():
            sentences.setdefault(line)
    said = tuple(one for one in sentences if not any(one != other and one in other for other in sentences))
    return Refusal(finished.returncode, finished.stdout + finished.stderr, said)


@dataclass
class Cluster:
    """A finished cluster, as the scenario ``default`` leaves it."""

    machines: Machines
    api: PrefectApi
    _last: dict[bool, State] = field(default_factory=dict)
    """The newest states, without and with the server's objects."""

    def run(self, machine: str, command: str, *, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a shell command on a machine, whatever comes of it."""
        given = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        return subprocess.run([*self.ssh(machine), command], capture_output=True, text=True, **given)

    def do(self, machine: str, command: str, *, stdin: str | None = None) -> str:
        """Run a shell command that must succeed on a machine, and return what it printed."""
        return self.machines.ssh(machine, command, stdin=stdin)

    def ssh(self, machine: str) -> list[str]:
        """Return the command that logs in to *machine*."""
        return ["ssh", "-F", self.machines.ssh_config, machine]

    def playbook(self, name: str, *arguments: str) -> Refusal:
        """Run a playbook with the inventory and secrets of SITE on the controller."""
        command = f"cd {SITE}/ansible && ansible-playbook -i inventory.yml {name} {shlex.join(arguments)}"
        return refusal_of_playbook(self.run(CONTROLLER, command))

    def forget(self) -> None:
        """Say that a test changed something on purpose."""
        self._last.clear()

    @contextlib.contextmanager
    def unchanged(self, *, ask_server: bool = True, but: str | None = None) -> Iterator[None]:
        """Assert that what is done in this context changes nothing on any machine, nor on the server.

        *but* is a regular expression over the lines that may differ.
        """
        api = self.api if ask_server else None
        before = self._last.get(ask_server) or look(self.machines, api)
        yield
        after = look(self.machines, api)
        self._last[ask_server] = after
        differences = [line for line in before.differences(after) if but is None or not re.search(but, line)]
        assert not differences, f"{len(differences)} changes:\n" + "\n".join(differences[:40])


def add_machine(cluster: Cluster, name: str, *options: str) -> None:
    """Add a machine called *name* to the cluster; one that an earlier run left is removed before."""
    if name in cluster.machines.addresses():
        cluster.machines.testbed("remove", name)
    cluster.machines.testbed("add", ":".join([name, *options]))
    cluster.forget()


def remove_machine(cluster: Cluster, name: str) -> None:
    """Remove a machine that was added."""
    cluster.machines.testbed("remove", name)
    cluster.forget()


def inventory(workers: Sequence[str] = ("pag-worker-1", "pag-worker-2"), **variables: dict[str, object]) -> str:
    """Return an inventory like the operator's, with other workers, and with variables by host."""
    hosts = {name: variables.get(name.replace("-", "_")) for name in workers}
    gpu = {name: {"worker_gpu_ids": "0,1"} for name in workers if name == "pag-worker-2"}
    children = {"prefect_workers_cpu": {"hosts": hosts}, "prefect_workers_gpu": {"hosts": gpu}}
    document = {
        "all": {
            "children": {
                "prefect_servers": {"hosts": {"pag-server": None}},
                "prefect_workers": {"children": children},
            }
        }
    }
    return yaml.safe_dump(document)


def put(cluster: Cluster, name: str, content: str) -> None:
    """Write a file of the site."""
    cluster.do(CONTROLLER, f"umask 077 && cd {SITE}/ansible && rm -f {name} && cat > {name}", stdin=content)


def add_unreachable_worker(cluster: Cluster, name: str, **variables: dict[str, object]) -> None:
    """Put a worker into the site's inventory that nobody answers for."""
    nobody = str(ipaddress.ip_address(cluster.machines.addresses()[CONTROLLER]) + 200)
    variables[name.replace("-", "_")] = {"ansible_host": nobody, "ansible_timeout": 4}
    put(cluster, "inventory.yml", inventory(["pag-worker-1", "pag-worker-2", name], **variables))
