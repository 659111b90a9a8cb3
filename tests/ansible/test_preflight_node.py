"""What keeps a node from joining: each check says so, and only when it is so."""

from __future__ import annotations

import socket
from pathlib import Path

import preflight_node as preflight
import pytest

TARGETS = ["debian-12-x86_64"]


def test_facts_come_from_the_system(tmp_path: Path) -> None:
    os_release = tmp_path / "os-release"
    os_release.write_text('NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="12"\n')
    (tmp_path / "toolkit").mkdir()
    (tmp_path / "toolkit" / "current").symlink_to("abc")
    facts = preflight.node_facts(tmp_path, os_release)
    assert facts["target"].startswith("debian-12-")
    assert facts["toolkit"] == "abc"


def test_a_node_of_a_target_with_the_distributions_python_is_fine() -> None:
    assert list(preflight.check_system({"target": "debian-12-x86_64", "python": "3.11"}, TARGETS)) == []


def test_another_release_is_a_problem() -> None:
    problems = list(preflight.check_system({"target": "debian-13-x86_64", "python": "3.13"}, TARGETS))
    assert len(problems) == 1
    assert "runs debian-13-x86_64, which the bundle was not built for" in problems[0]


def test_another_python_is_a_problem() -> None:
    problems = list(preflight.check_system({"target": "debian-12-x86_64", "python": "3.12"}, TARGETS))
    assert len(problems) == 1
    assert "3.12 instead of the distribution's 3.11" in problems[0]


def test_space_of_directories_on_one_file_system_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = preflight.shutil.disk_usage(tmp_path)._replace(free=1_000 * 1_000_000)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage)
    assert list(preflight.check_space({str(tmp_path / "a"): 500, str(tmp_path / "b"): 500})) == []
    problems = list(preflight.check_space({str(tmp_path / "a"): 500, str(tmp_path / "b"): 501}))
    assert problems == [f"has 1000 MB free below {tmp_path}, 1001 MB are needed: make room there."]


@pytest.mark.parametrize(("skew", "words"), [(31.0, "31 s ahead of"), (-31.0, "31 s behind")])
def test_clocks_that_differ_are_a_problem(skew: float, words: str) -> None:
    assert words in next(preflight.check_time(1000 + skew, 1000, 30))


def test_clocks_within_the_limit_are_fine() -> None:
    assert list(preflight.check_time(1029, 1000, 30)) == []


def test_names_that_do_not_resolve_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(name: str, _port: None) -> list[str]:
        if name == "known":
            return []
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(preflight.socket, "getaddrinfo", resolve)
    problems = list(preflight.check_names(["known", "unknown"]))
    assert len(problems) == 1
    assert "cannot resolve the name unknown" in problems[0]


@pytest.fixture
def port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


def test_a_port_that_another_holds_is_a_problem(port: str) -> None:
    problems = list(preflight.check_ports({port: ["nginx.service"]}))
    assert len(problems) == 1
    assert f"port {port} is taken by " in problems[0]


def test_a_port_that_our_own_unit_holds_is_fine(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_units_of_sockets", lambda inodes: dict.fromkeys(inodes, "postgresql@15.service"))
    assert list(preflight.check_ports({port: ["postgresql*.service"]})) == []


def test_a_free_port_is_fine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = str(server.getsockname()[1])
    assert list(preflight.check_ports({free: []})) == []
