"""kill -9 of the installation on a controller, at random moments: the same command again ends in the same files."""

from __future__ import annotations

import random
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import delta
import pytest
from machines import Machines, unprivileged

pytestmark = [pytest.mark.root, pytest.mark.long]

REPOSITORY = Path(__file__).resolve().parent.parent
CONTROLLER = "pag-controller"
_MOMENTS = 10
_SEED = 1

# Every file with its content, every link with its target, every directory. Caches, compiled code and locks may differ,
# and in what uv installs the time of the wheel, which it notes (RECORD has that note's digest).
_TREE = (
    "sudo find /opt/pag ~/pag-software-bundle ~/.pag-software-bundle.part /usr/local/bin"
    " '(' -path /opt/pag/cache -o -name __pycache__ -o -name '.lock' ')' -prune -o"
    " '(' -type f -printf 'f %m %u %p\\n' ')' -o '(' -type l -printf 'l %p %l\\n' ')' -o -type d -printf 'd %m %p\\n'"
    " 2> /dev/null | sort;"
    " sudo find /opt/pag ~/pag-software-bundle '(' -path /opt/pag/cache -o -name __pycache__ ')' -prune -o"
    " -type f ! -name uv_cache.json ! -path '*.dist-info/RECORD' -print0 | sort -z | sudo xargs -0 sha256sum"
)

# have.yml would ask the nodes as well, and there are none.
_HAVE = """
import sys
sys.path.insert(0, "/opt/pag")
from pathlib import Path
from airgap.have_writer import describe
from airgap.site import Site
print(describe(Site(Path("/opt/pag")), []).to_json(), end="")
"""


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    found = Machines("test-killed")
    found.testbed("up", CONTROLLER)
    yield found
    found.testbed("down")


def _build(directory: Path, *arguments: str | Path) -> None:
    directory.mkdir(exist_ok=True)
    command = [sys.executable, REPOSITORY / "build-bundle.py", "--quiet", "--python", "system", "--target", "debian-12"]
    output = directory / delta.ARCHIVE
    subprocess.run(unprivileged([*command, "--output", output, *arguments]), check=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the volumes of a whole bundle."""
    directory = tmp_path_factory.mktemp("killed") / "full"
    _build(directory, "--split-size", "64M")
    return directory


def _tree(machines: Machines) -> list[str]:
    return machines.ssh(CONTROLLER, _TREE).splitlines()


def _install(disc: str) -> str:
    return f"bash {disc}/install-pag-controller.sh {disc}"


def _series(machines: Machines, prepare: Callable[[], None], disc: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Kill the installation of the volumes in *disc* at random moments, each time after *prepare*."""
    prepare()
    started = time.monotonic()
    machines.ssh(CONTROLLER, _install(disc))
    seconds = time.monotonic() - started
    expected = _tree(machines)
    moments = random.Random(_SEED)  # noqa: S311, not for secrets
    killed: list[float] = []
    while len(killed) < _MOMENTS:
        moment = round(moments.uniform(0.05, seconds), 2)
        prepare()
        command = delta.killed_after(moment, _install(disc))
        finished = subprocess.run(
            ["ssh", "-F", machines.ssh_config, CONTROLLER, command], stdin=subprocess.DEVNULL, capture_output=True
        )
        assert finished.returncode in {0, 137}, finished.stdout + finished.stderr
        if finished.returncode == 137:
            killed.append(moment)
        else:  # too late: what else the host does makes this faster or slower
            seconds = moment
        machines.ssh(CONTROLLER, _install(disc))
        differences = sorted(set(_tree(machines)) ^ set(expected))
        assert not differences, f"After kill -9 at {moment} s:\n" + "\n".join(differences[:40])
    with capsys.disabled():
        print(f"\n  killed at {killed} s")


def test_a_first_installation(machines: Machines, full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def prepare() -> None:
        machines.testbed("remove", CONTROLLER)
        machines.testbed("add", CONTROLLER)
        machines.copy([full], CONTROLLER, "disc")

    _series(machines, prepare, "~/disc", capsys)


def test_a_delta(machines: Machines, full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On top of what the first installation left."""
    machines.testbed("remove", CONTROLLER)
    machines.testbed("add", CONTROLLER)
    machines.copy([full], CONTROLLER, "disc")
    machines.ssh(CONTROLLER, f"{_install('~/disc')} && rm -r disc")
    checkout = full.parent / "checkout"
    delta.make_checkout(checkout)
    (checkout / "have.json").write_text(machines.ssh(CONTROLLER, f"cd / && python3 -B -c {shlex.quote(_HAVE)}"))
    output = checkout / "delta" / delta.ARCHIVE
    output.parent.mkdir()
    finished = delta.build(checkout, ["--python", "system", "--split-size", "1M", "--output", output])
    assert finished.returncode == 0, finished.stdout
    machines.copy([output.parent], CONTROLLER, "disc")
    machines.ssh(CONTROLLER, "sudo cp -a /opt/pag /opt/before && cp -a pag-software-bundle before")

    def prepare() -> None:
        machines.ssh(
            CONTROLLER,
            "sudo rm -rf /opt/pag pag-software-bundle .pag-software-bundle.part"
            " && sudo cp -a /opt/before /opt/pag && sudo cp -a before pag-software-bundle",
        )

    _series(machines, prepare, "~/disc", capsys)
