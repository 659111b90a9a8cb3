"""The machines that everything else is tested on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import base
import cluster as clusters
import network as networks
import places
import pytest
from process import TestbedError

_TESTBED = Path(__file__).resolve().parent.parent.parent / "molecule/testbed/testbed.py"
_CLUSTER = "test-testbed"


@pytest.mark.parametrize("name", ["", "Demo", "../etc", "a b", "x" * 40, "-x"])
def test_names_that_could_be_paths_or_options_are_refused(name: str) -> None:
    with pytest.raises(TestbedError, match="is no name of a cluster"):
        clusters.directory_of(name)


@pytest.mark.parametrize("name", ["demo", "test-default", "a-name-that-is-very-long-indeed"])
def test_interface_names_fit_the_kernel(name: str) -> None:
    assert len(networks.bridge_name(name)) <= 15


def test_long_names_stay_different() -> None:
    assert networks.bridge_name("test-scenario-one") != networks.bridge_name("test-scenario-two")


def test_an_unknown_release_is_refused() -> None:
    with pytest.raises(TestbedError, match="There are no machines of debian-99"):
        base.ensure("debian-99")


@pytest.mark.parametrize("text", ["pag-x:debian-99", "pag-x:disk", "-rf", "../x"])
def test_unusable_machines_are_refused(text: str) -> None:
    cluster = clusters.Cluster(_CLUSTER, networks.Network(_CLUSTER, 0), ())
    with pytest.raises(TestbedError):
        clusters._parse(cluster, text, 10)


@pytest.mark.parametrize(
    ("content", "address"),
    [
        ("Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n", True),
        ("deb [signed-by=/x.gpg] http://mirror.example/debian trixie main\n", True),
        ("deb http://mirror.example/debian stable main\n", True),
        ("# deb http://mirror.example/debian bookworm main\n", False),
        ("Types: deb\nURIs: http://other.example\nSuites: nodistro\n", False),
    ],
)
def test_the_archive_is_the_hosts_own(
    content: str, address: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.list"
    file.write_text(content)
    monkeypatch.setattr(base, "_apt_sources", lambda: [file])
    if address:
        assert base._archive() == "http://mirror.example/debian"
    else:
        with pytest.raises(TestbedError, match="name no Debian archive"):
            base._archive()


def _testbed(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command, *rest = arguments
    return subprocess.run(
        [sys.executable, _TESTBED, command, "--cluster", _CLUSTER, *rest],
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def _traces() -> list[str]:
    """Return what is left of the cluster on this host."""
    found = [str(path) for path in [places.STATE / _CLUSTER] if path.exists()]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"/{_CLUSTER}/" in line]
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    found += [line for line in links.splitlines() if _CLUSTER in line]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    found += [line for line in tables.splitlines() if networks.bridge_name(_CLUSTER) in line]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"/{_CLUSTER}/".encode() in process.read_bytes():
                found.append(str(process))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def machine() -> Iterator[str]:
    """A cluster of one machine."""
    made = _testbed("up", "pag-controller")
    assert made.returncode == 0, made.stderr
    yield "pag-controller"
    assert _testbed("down").returncode == 0


@pytest.mark.scenario
def test_the_machine_is_up_and_has_its_user(machine: str) -> None:
    said = _testbed("ssh", machine, "hostname && systemctl is-system-running && sudo -n id -u").stdout
    assert said.split() == ["pag-controller", "running", "0"]


@pytest.mark.scenario
@pytest.mark.parametrize(
    "attempt",
    ["</dev/tcp/192.0.2.1/80", "</dev/tcp/2001:db8::1/80", "echo >/dev/udp/192.0.2.1/123", "getent hosts example.org"],
)
def test_every_attempt_to_leave_is_counted(machine: str, attempt: str) -> None:
    before = int(_testbed("escapes").stdout)
    _testbed("ssh", machine, f"timeout 1 bash -c {attempt!r}")
    assert int(_testbed("escapes").stdout) > before


@pytest.mark.scenario
def test_talking_to_oneself_and_to_the_host_is_no_attempt(machine: str) -> None:
    before = int(_testbed("escapes").stdout)
    _testbed("ssh", machine, "timeout 1 bash -c '</dev/tcp/pag-controller/22'")
    assert int(_testbed("escapes").stdout) == before


@pytest.mark.scenario
def test_what_is_cut_lets_nothing_pass_until_it_is_mended_and_is_no_attempt_to_leave(machine: str) -> None:
    other = "pag-other"
    assert _testbed("add", other).returncode == 0
    before = int(_testbed("escapes").stdout)

    def reaches(source: str, target: str) -> bool:
        return _testbed("ssh", source, f"timeout 2 bash -c '</dev/tcp/{target}/22'").returncode == 0

    assert reaches(machine, other)
    assert _testbed("cut", machine, other).returncode == 0
    assert not reaches(machine, other)
    assert not reaches(other, machine)
    assert _testbed("mend").returncode == 0
    assert reaches(machine, other)
    assert int(_testbed("escapes").stdout) == before
    assert _testbed("remove", other).returncode == 0


@pytest.mark.scenario
def test_without_a_counter_nothing_is_claimed(machine: str) -> None:
    subprocess.run(["nft", "delete", "table", "inet", networks.bridge_name(_CLUSTER)], check=True)
    assert _testbed("escapes").returncode == 1


@pytest.mark.scenario
def test_a_stopped_machine_starts_again(machine: str) -> None:
    _testbed("ssh", machine, "echo kept > kept")
    assert _testbed("stop", machine).returncode == 0
    assert _testbed("start", machine).returncode == 0
    assert _testbed("ssh", machine, "cat kept").stdout == "kept\n"


@pytest.mark.scenario
def test_a_small_disk_is_small() -> None:
    try:
        assert _testbed("up", "pag-small:disk=300M").returncode == 0
        free = _testbed("ssh", "pag-small", "df --output=avail --block-size=1M / | tail -n 1").stdout
        assert 100 < int(free) < 300
    finally:
        _testbed("down")
    assert _traces() == []


_KILLED_AFTER = [
    *(pytest.param(seconds, marks=pytest.mark.scenario) for seconds in (0.15, 0.3, 0.6, 1.2)),
    *(pytest.param(round(0.02 + 0.04 * step, 2), marks=pytest.mark.long) for step in range(60)),
]


@pytest.mark.parametrize("seconds", _KILLED_AFTER)
def test_a_run_that_was_killed_leaves_nothing_that_matters(seconds: float) -> None:
    process = subprocess.Popen(
        [sys.executable, _TESTBED, "up", "--cluster", _CLUSTER],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    try:
        again = _testbed("up", "pag-controller")
        assert again.returncode == 0, again.stderr
        assert _testbed("ssh", "pag-controller", "true").returncode == 0
    finally:
        assert _testbed("down").returncode == 0
    assert _traces() == []


@pytest.mark.scenario
def test_an_interrupted_base_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "CACHE", tmp_path)
    release = base.RELEASES["debian-12"]
    unfinished = tmp_path / f".{release.path.name}"
    (unfinished / "etc").mkdir(parents=True)
    made: list[Path] = []

    def make(command: list[object], **_: object) -> None:
        # Stands for debootstrap, which takes a minute: what matters is what it finds, and what is used afterwards.
        made.append(Path(str(command[-2])))
        assert not made[-1].exists()
        raise TestbedError("cut short")

    monkeypatch.setattr(base, "run", make)
    with pytest.raises(TestbedError, match="cut short"):
        base.ensure("debian-12")
    assert made == [unfinished]
    assert not release.path.exists()
