"""What starts flow runs in boxes: the client that stands for a run, the broker, and the unit that it asks for."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ANSIBLE

PROGRAM = ANSIBLE / "roles/prefect_worker/files/run"
sys.path[:0] = [str(PROGRAM), str(ANSIBLE / "module_utils")]

import broker  # noqa: E402
import run_counters  # noqa: E402
import run_end  # noqa: E402
from run_box import Box, Node, command_line, environment_file, environment_of, make_box  # noqa: E402
from run_end import End  # noqa: E402
from run_messages import ClosedError, receive, send  # noqa: E402
from run_request import read_request  # noqa: E402

HOME = Path("/opt/prefect")
NODE = Node("prefect", HOME, ("/data",))
RUN = "0f0f0f0f-1111-4222-8333-444444444444"
CODE = "/opt/prefect/flows/demo2/0123456789ab"
# As the worker starts it.
CLIENT = (sys.executable, "-E", "-s", "-S", "-B")


def _box(directory: str = CODE, flow: str = "other", node: Node = NODE, user: str = "prefect") -> Box:
    return make_box(node, user, RUN, "1700.7", flow, directory, Path("/run/pag-run/1700.7"))


def test_a_flows_run_has_a_copy_of_its_code_in_the_codes_place() -> None:
    box = _box()
    assert (box.unit, box.flow, str(box.code), box.start) == (f"flow-run-{RUN}-1700.7.service", "demo2", CODE, CODE)
    assert str(box.results) == "/opt/prefect/storage/demo2"


@pytest.mark.parametrize(
    "directory", ["/tmp/tmpabcprefect", "/opt/prefect/flows/../../etc", "/opt/prefect/flows/demo2"]
)
def test_no_other_directory_is_copied(directory: str) -> None:
    box = _box(directory, flow="../my flow")
    assert (box.code, box.flow) == (None, "my-flow")
    assert box.start == (f"/opt/prefect/runs/{RUN}-1700.7/home" if directory.startswith("/tmp") else directory)


def test_the_code_is_copied_as_it_is(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "steps").mkdir(parents=True)
    (source / "steps/run.sh").write_bytes(b"#!/bin/sh\n" * 300_000)
    (source / "steps/run.sh").chmod(0o755)
    os.utime(source / "steps/run.sh", ns=(10**18, 10**18))
    (source / "empty").touch()
    (source / "to-directory").symlink_to("steps")
    (source / "to-nothing").symlink_to("/nowhere")
    broker._copy(source, target)
    broker._give(target, os.getuid(), os.getgid())
    for path in (target, *target.rglob("*")):
        same = source / path.relative_to(target)
        assert path.lstat().st_mode == same.lstat().st_mode
        assert path.is_dir() or path.lstat().st_mtime_ns == same.lstat().st_mtime_ns
        assert path.is_symlink() or path.is_dir() or path.read_bytes() == same.read_bytes()
    assert {path.relative_to(target) for path in target.rglob("*")} == {
        path.relative_to(source) for path in source.rglob("*")
    }
    assert (target / "to-nothing").readlink() == Path("/nowhere")


def test_code_that_cannot_be_copied_refuses_the_run(tmp_path: Path) -> None:
    with pytest.raises(broker.RefusedError, match=r"could not be copied: .*nowhere"):
        broker._copy(tmp_path / "nowhere", tmp_path / "target")


def test_the_environment_is_what_the_worker_gives_without_its_own() -> None:
    given = {"PREFECT_API_URL": "http://x/api", "HOME": "/root", "STATE_DIRECTORY": "/var/lib/x", "not a name": "1"}
    environment = environment_of(_box(), given | {"PREFECT_HOME": "/opt/prefect/.prefect"})
    home = f"/opt/prefect/runs/{RUN}-1700.7/home"
    assert environment == {
        "PREFECT_API_URL": "http://x/api",
        "HOME": home,
        "PREFECT_HOME": f"{home}/.prefect",
        "PREFECT_LOCAL_STORAGE_PATH": "/opt/prefect/storage/demo2",
    }


def test_variables_that_would_act_on_the_client_come_back_to_the_run() -> None:
    given = {"PAG_RUN_LD_LIBRARY_PATH": "/opt/cuda", "LD_LIBRARY_PATH": "/the/workers", "PAG_RUN_HOME": "/root"}
    environment = environment_of(_box(), given)
    assert environment["LD_LIBRARY_PATH"] == "/opt/cuda"
    assert environment["HOME"].startswith("/opt/prefect/runs/")


def test_a_gpu_that_is_claimed_without_its_lock_is_refused(tmp_path: Path) -> None:
    request = read_request([b"/tmp", b"--gpu=0", b"--", b"true"], [])
    with (tmp_path / "0.lock").open("w") as lock, (tmp_path / "1.lock").open("w") as other:
        broker.check_leases(request, [lock.fileno()], tmp_path)
        for files in ([], [other.fileno()], [1], [lock.fileno(), other.fileno()]):
            with pytest.raises(broker.RefusedError, match="claims 0, and has not leased that"):
                broker.check_leases(request, files, tmp_path)
        with pytest.raises(broker.RefusedError, match="claims 0"):
            broker.check_leases(request, [lock.fileno()], tmp_path / "elsewhere")


def test_values_are_quoted_for_systemd() -> None:
    assert environment_file({"A": 'say "hi" \\ $HOME `x`\nB'}) == 'A="say \\"hi\\" \\\\ \\$HOME \\`x\\`\nB"\n'


def test_the_unit_holds_limits_and_no_environment() -> None:
    line = command_line(_box(), {"memory_max": "1G"}, "pag-run.service", "A run", ["python", "-m", "x", "$HOME"])
    properties = [entry.removeprefix("--property=") for entry in line if entry.startswith("--property=")]
    assert {"MemoryMax=1G", "BindsTo=pag-run.service", "NoNewPrivileges=yes", "ReadWritePaths=-/data"} <= {*properties}
    assert f"BindPaths=/opt/prefect/runs/{RUN}-1700.7/code:{CODE}" in properties
    assert "EnvironmentFile=/run/pag-run/1700.7/env" in properties
    assert not any(entry.startswith("Environment=") for entry in properties)
    assert line[line.index("--") :] == ["--", "/usr/bin/env", "python", "-m", "x", "$$HOME"]


EVENTS = {"tasks_max": "pids.events", "memory_max": "memory.events"}


def _counters(directory: Path, contents: dict[str, str]) -> run_counters.Counters:
    """Return counters that have seen a group with *contents*, by the limits' names."""
    (directory / "cgroup.controllers").touch()
    group = directory / "pag.slice/pag-run.slice/x.service"
    counters = run_counters.Counters("x.service", dict.fromkeys(contents, "1"), directory)
    assert counters.open() == []
    group.mkdir(parents=True)
    for limit, content in contents.items():
        (group / EVENTS[limit]).write_text(content)
    assert len(counters.open()) == len(contents)
    counters.close()
    return counters


def test_counters_are_read_while_their_group_is_there(tmp_path: Path) -> None:
    counters = _counters(tmp_path, {"tasks_max": "max 3\n"})
    assert (counters.awaited, counters.count("tasks_max", "max"), counters.count("memory_max", "max")) == (
        False,
        3,
        None,
    )


def test_nothing_waits_for_counters_that_never_come(tmp_path: Path) -> None:
    assert not run_counters.Counters("x.service", {"tasks_max": "64"}, tmp_path).awaited
    (tmp_path / "cgroup.controllers").touch()
    assert not run_counters.Counters("x.service", {"time_max": "64"}, tmp_path).awaited
    (tmp_path / "pag.slice/pag-run.slice/x.service").mkdir(parents=True)
    counters = run_counters.Counters("x.service", {"tasks_max": "64"}, tmp_path)
    assert (counters.awaited, counters.open(), counters.awaited) == (True, [], False)


REFUSED = "Out of processes: the run wanted more processes and threads than tasks_max=64."


@pytest.mark.parametrize(
    ("shown", "status", "expected"),
    [("", 0, REFUSED), ("exit-code 1 3", 1, f"{REFUSED} It ended with status 3.")],
)
def test_a_run_that_was_refused_processes_says_so(shown: str, status: int, expected: str, tmp_path: Path) -> None:
    counters = _counters(tmp_path, {"tasks_max": "max 1\n"})
    assert run_end.read_end(_shown(shown), {"tasks_max": "64"}, status, counters).reason == expected


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ("max 9\noom 1\noom_kill 3\n", "the run used more than memory_max=1G."),
        ("max 0\noom 0\noom_kill 3\n", "the node had no more for its runs, and the kernel ended this one."),
        ("max 0\noom 0\noom_kill 0\n", "the run used more than memory_max=1G."),  # the last look was too early
    ],
)
def test_whose_memory_was_short_is_told_apart(events: str, expected: str, tmp_path: Path) -> None:
    counters = _counters(tmp_path, {"memory_max": events})
    reason = run_end.read_end(_shown("oom-kill 2 9"), {"memory_max": "1G"}, 1, counters).reason
    assert reason == f"Out of memory: {expected}"


def _shown(text: str) -> str:
    """Return what systemd shows of a unit, for its result, and its main process's code and status."""
    if not text:
        return ""
    result, code, status = text.split()
    return f"LoadState=loaded\nResult={result}\nExecMainCode={code}\nExecMainStatus={status}\n"


@pytest.mark.parametrize(
    ("shown", "limits", "expected"),
    [
        ("exit-code 1 3", {}, (3, None, None)),
        ("signal 2 9", {}, (137, 9, None)),
        ("oom-kill 2 9", {"memory_max": "1G"}, (137, 9, "Out of memory: the run used more than memory_max=1G.")),
        ("timeout 2 15", {"time_max": "9"}, (143, 15, "Out of time: the run took longer than time_max=9 seconds.")),
        ("resources 0 0", {}, (1, None, "The run could not be started: see the journal.")),
    ],
)
def test_an_end_is_said_in_words(
    shown: str, limits: dict[str, str], expected: tuple[int, int | None, str | None]
) -> None:
    assert run_end.read_end(_shown(shown), limits, 1, run_counters.Counters("x.service", {})) == expected


def test_what_systemd_has_forgotten_was_told_to_stop_or_ended_well() -> None:
    counters = run_counters.Counters("x.service", {})
    assert run_end.read_end("", {}, 0, counters).fields() == [b"0", b"", b""]
    assert run_end.read_end("LoadState=not-found\n", {}, 255, counters).fields() == [b"143", b"15", b""]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_messages_arrive_whole_and_with_files(pair: tuple[socket.socket, socket.socket]) -> None:
    fields = [b"", b"x" * 700_000, "ü\udcff".encode(errors="surrogateescape"), b""]
    sender = threading.Thread(target=send, args=(pair[0], fields, (1, 2)))
    sender.start()
    received, files = receive(pair[1])
    sender.join()
    assert (received, len(files)) == (fields, 2)
    for descriptor in files:
        os.close(descriptor)


def test_the_others_end_and_nonsense_are_noticed(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].sendall(b"\xff\xff\xff\xff")
    with pytest.raises(ValueError, match="too long"):
        receive(pair[1])
    with pytest.raises(ValueError, match="no option --colour"):
        read_request([b"/", b"--colour=red", b"--", b"true"], [])
    with pytest.raises(ValueError, match="no GPU is called"):
        read_request([b"/", b"--gpu=../0", b"--", b"true"], [])
    pair[0].close()
    with pytest.raises(ClosedError):
        receive(pair[1])


def test_another_run_of_the_flow_may_make_its_results_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = pwd.getpwuid(os.getuid()).pw_name
    node = Node(user, tmp_path, ())
    for name in ("runs", "storage"):
        (tmp_path / name).mkdir()
    box = make_box(node, user, RUN, "1.1", "a", "/tmp/x", tmp_path / "notes")
    make = Path.mkdir

    def made_meanwhile(path: Path, *arguments: Any, **named: Any) -> None:
        if path == box.results:
            os.mkdir(path)  # noqa: PTH102
        make(path, *arguments, **named)

    monkeypatch.setattr(Path, "mkdir", made_meanwhile)
    broker.prepare(box, {"NAME": "value"})
    assert (box.notes / "env").read_text() == 'NAME="value"\n'


def test_who_is_no_worker_gets_no_run(tmp_path: Path, pair: tuple[socket.socket, socket.socket]) -> None:
    group = tmp_path / str(os.getpid())
    group.mkdir()
    root = Node("root", HOME, ())
    for name, allowed in (("prefect-worker-cpu.service", True), ("pag.slice/flow-run-1.service", False)):
        (group / "cgroup").write_text(f"1:name=systemd:/system.slice/{name}\n0::/system.slice/{name}\n")
        if allowed:
            broker.check_peer(pair[0], root, tmp_path)
        else:
            with pytest.raises(broker.RefusedError, match="this node's workers only"):
                broker.check_peer(pair[0], root, tmp_path)


def test_a_run_is_the_service_user_or_one_that_the_node_may_give_it() -> None:
    node = Node("prefect", HOME, (), (pwd.getpwuid(os.getuid()).pw_name, "nobody", "not-yet-there", "root"))
    assert (broker.choose_user(node, ""), broker.choose_user(node, "nobody")) == ("prefect", "nobody")
    for wanted, why in (
        ("daemon", "flow_user is 'daemon', and .* has .*nobody, .*: add it to flow_users in inventory.yml"),
        ("not-yet-there", "does not know the user not-yet-there: run main.yml"),
        ("root", "nothing is run as root"),
    ):
        with pytest.raises(broker.RefusedError, match=why):
            broker.choose_user(node, wanted)


def test_a_users_results_are_apart_from_the_service_users() -> None:
    node = Node("prefect", HOME, (), ("eo",))
    assert str(_box(node=node, user="eo").results) == "/opt/prefect/storage/demo2@eo"
    command = command_line(_box(node=node, user="eo"), {}, "x.service", "a run", ["python"])
    assert "--uid=eo" in command
    assert "--uid=prefect" in command_line(_box(node=node), {}, "x.service", "a run", ["python"])


def test_a_run_holds_its_leases_itself_and_cannot_open_others_gpus() -> None:
    box = replace(_box(), gpus=("0", "2"), closed=("/dev/nvidia1",))
    command = command_line(box, {}, "x.service", "a run", ["python"])
    assert {
        "--property=InaccessiblePaths=-/dev/nvidia1",
        "--property=TemporaryFileSystem=/run/pag:ro",
        "--property=BindReadOnlyPaths=/run/pag/gpus/0.lock /run/pag/gpus/2.lock",
    } <= set(command)
    holding = ["/usr/bin/flock", "--shared", "--nonblock", "--no-fork"]
    started = [*holding, "/run/pag/gpus/0.lock", *holding, "/run/pag/gpus/2.lock", "/usr/bin/env", "python"]
    assert command[command.index("--") + 1 :] == started
    # systemd 257 leaves control groups out of what is below /sys.
    assert "--property=ReadOnlyPaths=/sys /sys/fs/cgroup /proc/sys" in command
    assert "--property=InaccessiblePaths=-/run/pag" in command_line(_box(), {}, "x.service", "a run", ["python"])


def test_a_run_that_can_open_all_gpus_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(leased: list[str]) -> list[str]:
        raise broker.UnknownGpuError(f"nobody knows which device file the GPU {leased[0]} has")

    request = read_request([b"/", b"--gpu=MIG-1", b"--", b"true"], [])
    monkeypatch.setattr(broker, "closed_files", unknown)
    said = tmp_path / "said"
    with said.open("w") as errors:
        assert broker.closed_devices(NODE, request, errors.fileno()) == ()
        assert broker.closed_devices(replace(NODE, close_gpus=False), request, errors.fileno()) == ()
    assert re.fullmatch("The run can open all GPUs of .*: nobody knows which .* MIG-1 has.\n", said.read_text())


def test_the_client_hands_on_what_the_run_has_leased() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(PROGRAM)!r}); import client, os; print(client.leased(), *os.environ)"
    )
    for lease, expected in (("0=5,GPU-1f=7", "([b'--gpu=0', b'--gpu=GPU-1f'], [5, 7])"), ("", "([], [])")):
        command = [*CLIENT, "-c", program]
        said = subprocess.run(command, env={"PAG_GPU_LEASE": lease}, capture_output=True, text=True, check=True).stdout
        assert said.startswith(expected)
        assert "PAG_GPU_LEASE" not in said
    request = read_request([b"/", b"--gpu=0", b"--gpu=GPU-1f", b"--run=a", b"--", b"true"], [])
    assert (request.gpus, request.run) == (["0", "GPU-1f"], "a")


class Client:
    """The client as the worker starts it, with a broker of the test's."""

    def __init__(self, directory: Path, answer: End | None) -> None:
        self.state = directory / "state"
        (self.state / "ends").mkdir(parents=True)
        self._answer = answer
        self._path = directory / "run.sock"
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self._path))
        self._server.listen()
        self._program = directory / "run"
        shutil.copytree(PROGRAM, self._program)
        messages = self._program / "run_messages.py"
        messages.write_text(messages.read_text().replace("/run/pag/run.sock", str(self._path)))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        thread = threading.Thread(target=self._serve)
        thread.start()
        finished = subprocess.run(
            [*CLIENT, str(self._program / "client.py"), *arguments],
            cwd=self.state,
            env={"STATE_DIRECTORY": str(self.state), "GIVEN": "a=b\n ü"},
            capture_output=True,
            text=True,
        )
        thread.join()
        self._server.close()
        return finished

    def _serve(self) -> None:
        connection, _ = self._server.accept()
        with connection:
            asked, files = receive(connection)
            self.request = read_request(asked, receive(connection)[0])
            for descriptor in files:
                os.close(descriptor)
            if self._answer is not None:
                send(connection, self._answer.fields())


def test_the_client_ends_as_the_run_did(tmp_path: Path) -> None:
    client = Client(tmp_path, End(137, 9, "Out of memory."))
    finished = client.run("--run=r1", "--name=red-fox", "--limit=memory_max=1G", "--", "python", "--", "", "-x")
    assert (finished.returncode, finished.stderr) == (-9, "Out of memory.\n")
    assert (client.state / "ends/r1").read_text() == "Out of memory."
    assert (client.request.run, client.request.name, client.request.flow) == ("r1", "red-fox", "")
    assert client.request.limits == {"memory_max": "1G"}
    assert client.request.command == ["python", "--", "", "-x"]
    assert client.request.directory == str(client.state)
    assert client.request.environment["GIVEN"] == "a=b\n ü"


def test_the_client_ends_well_without_a_word(tmp_path: Path) -> None:
    client = Client(tmp_path, End(0))
    finished = client.run("--run=r1", "--", "true")
    assert (finished.returncode, finished.stderr, list((client.state / "ends").iterdir())) == (0, "", [])


def test_the_client_says_when_its_broker_has_gone(tmp_path: Path) -> None:
    finished = Client(tmp_path, None).run("--run=r1", "--", "true")
    assert (finished.returncode, finished.stderr) == (78, "Lost: what ran it (pag-run) ended before it.\n")


def test_the_client_imports_nothing_that_takes_long(tmp_path: Path) -> None:
    listed = "import sys; sys.argv = []; import client; print(*sys.modules)"
    command = [*CLIENT, "-c", f"import sys; sys.path.insert(0, {str(PROGRAM)!r}); {listed}"]
    modules = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert not modules & {"enum", "json", "pathlib", "re", "signal", "socket", "struct", "subprocess", "typing"}


def test_a_broker_whose_programs_were_replaced_serves_with_the_new_ones(tmp_path: Path) -> None:
    programs, path = tmp_path / "run", tmp_path / "run.sock"
    shutil.copytree(PROGRAM, programs)
    shutil.copy(ANSIBLE / "module_utils/run_limits.py", programs)
    program = programs / "broker.py"
    settings = tmp_path / "run.json"
    settings.write_text(
        json.dumps({"user": "root", "home": str(tmp_path), "write_paths": [], "flow_users": [], "close_gpus": True})
    )
    text = program.read_text().replace('    _clear("*")\n', "").replace("/etc/prefect/run.json", str(settings))
    program.write_text(text)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        # It takes the socket as systemd hands it over.
        start = f"exec {sys.executable} -E -s -S -B {program} 3<&{listener.fileno()}"
        older = subprocess.Popen(["bash", "-c", start], pass_fds=[listener.fileno()])
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(str(path))
        while not Path(f"/proc/{older.pid}/task/{older.pid}/children").read_text():
            time.sleep(0.01)
        program.write_text("import os, sys\nos.write(int(sys.argv[1]), b'newer ' + sys.argv[2].encode())\n")
        os.utime(program, (time.time() + 60, time.time() + 60))
        with socket.socket(socket.AF_UNIX) as second:
            second.settimeout(10)
            second.connect(str(path))
            assert second.recv(100).startswith(b"newer ")
            assert second.recv(100) == b""
    # Without a run, it ends, and systemd starts the new one.
    assert older.wait(timeout=30) == 0
