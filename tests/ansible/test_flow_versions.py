"""On a node, exactly the versions and environments go that neither the registry nor a process needs."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import prefect_flow_collect
import pytest

from ansible.module_utils.flow_versions import (
    Places,
    code_digest,
    environment_of,
    find_unused,
    is_complete,
    remove_unused_packages,
    unfinished,
)

OLD, NEW, OTHER = "0" * 12, "1" * 12, "2" * 12


@pytest.fixture
def places(tmp_path: Path) -> Places:
    found = Places(tmp_path / "flows", tmp_path / "envs")
    found.environments.mkdir()
    (found.environments / "prefect-0123456789ab").mkdir()
    for flow, version, environment in (("demo", OLD, "a" * 12), ("demo", NEW, "b" * 12), ("other", OTHER, "c" * 12)):
        add(found, flow, version, environment)
    return found


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A process that uses nothing of it."""
    process(tmp_path / "proc", "1", "/usr/sbin/init")
    return tmp_path / "proc"


def add(places: Places, flow: str, version: str, environment: str) -> None:
    directory = places.environments / f"{flow}-{environment}"
    directory.mkdir(exist_ok=True)
    (directory / ".complete").write_text("x")
    (places.flows / flow / version).mkdir(parents=True)
    (places.flows / flow / version / "main.py").write_text(version)
    (places.flows / flow / version / ".environment").symlink_to(f"../../../envs/{directory.name}")


def process(proc: Path, number: str, environ: str = "", cwd: str = "/") -> None:
    (proc / number).mkdir(parents=True)
    (proc / number / "environ").write_text(f"HOME=/\0{environ}\0")
    (proc / number / "cwd").symlink_to(cwd)


def names(paths: tuple[Path, ...]) -> list[str]:
    return [path.name for path in paths]


def test_what_is_kept_stays_and_the_rest_goes(places: Places, proc: Path) -> None:
    unused = find_unused(places, {"demo": [NEW]}, proc=proc)
    assert (names(unused.versions), names(unused.environments)) == ([OLD], [f"demo-{'a' * 12}"])


def test_an_environment_that_a_kept_version_shares_stays(places: Places, proc: Path) -> None:
    add(places, "demo", "3" * 12, "a" * 12)
    unused = find_unused(places, {"demo": [NEW, "3" * 12]}, proc=proc)
    assert (names(unused.versions), names(unused.environments)) == ([OLD], [])


@pytest.mark.parametrize("how", ["environ", "cwd"])
def test_what_a_process_uses_stays_with_its_environment(places: Places, proc: Path, how: str) -> None:
    directory = str(places.flows / "demo" / OLD)
    process(proc, "7", **{how: f"PREFECT__FLOW_ENTRYPOINT={directory}/main.py:f" if how == "environ" else directory})
    unused = find_unused(places, {"demo": []}, proc=proc)
    assert names(unused.versions) == [NEW]
    assert names(unused.environments) == [f"demo-{'b' * 12}"]
    assert names(unused.kept) == [OLD]


def test_an_environment_that_a_process_uses_stays(places: Places, proc: Path) -> None:
    process(proc, "7", environ=f"CONDA_PREFIX={places.environments}/demo-{'a' * 12}/env")
    unused = find_unused(places, {"demo": []}, proc=proc)
    assert names(unused.environments) == [f"demo-{'b' * 12}"]
    assert f"demo-{'a' * 12}" in names(unused.kept)


def test_a_worker_that_stayed_in_a_directory_does_not_use_it(places: Places, proc: Path) -> None:
    process(proc, "7", cwd=str(places.flows / "demo" / OLD))
    (proc / "7/cmdline").write_bytes(
        b"python\0/opt/prefect/pixi-env/env/bin/prefect\0worker\0start\0--pool\0cpu-pool\0"
    )
    assert names(find_unused(places, {"demo": [NEW]}, proc=proc).versions) == [OLD]


def test_flows_that_nobody_named_and_base_environments_stay(places: Places, proc: Path) -> None:
    unused = find_unused(places, {"demo": []}, proc=proc)
    assert not [path for path in unused.paths if "other" in str(path) or "prefect-" in path.name]


def test_a_flow_whose_name_begins_like_anothers_is_another(places: Places, proc: Path) -> None:
    add(places, "demo-2", "4" * 12, "d" * 12)
    assert not [path for path in find_unused(places, {"demo": []}, proc=proc).paths if "demo-2" in str(path)]


def test_a_name_that_an_earlier_release_made_goes_when_it_is_not_needed(places: Places, proc: Path) -> None:
    (places.environments / f"demo-{'e' * 12}").symlink_to(f"demo-{'a' * 12}")
    kept = find_unused(places, {"demo": [OLD, NEW]}, [f"demo-{'e' * 12}"], proc=proc)
    assert kept.paths == ()
    assert names(find_unused(places, {"demo": [OLD, NEW]}, proc=proc).paths) == [f"demo-{'e' * 12}"]


def test_this_machines_own_processes_are_looked_at(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(places.flows / "demo" / OLD)
    assert places.flows / "demo" / OLD in places.in_use()


def test_a_version_is_whole_when_code_marker_and_environment_are(places: Places) -> None:
    version, environment = places.flows / "demo" / NEW, places.environments / f"demo-{'b' * 12}"
    listed = hashlib.sha256(NEW.encode()).hexdigest() + "  main.py\n"
    digest = hashlib.sha256(listed.encode()).hexdigest()
    assert code_digest(version) == digest
    assert environment_of(version) == environment
    assert not is_complete(version, "marker", digest, environment, None)
    (version / ".complete").write_text("marker")
    assert is_complete(version, "marker", digest, environment, None)
    assert not is_complete(version, "marker", digest, places.environments / f"demo-{'a' * 12}", None)
    (environment / ".complete").unlink()
    assert not is_complete(version, "marker", digest, environment, None)
    (environment / ".complete").write_text("x")
    (version / "main.py").write_text("damaged")
    assert not is_complete(version, "marker", digest, environment, None)


def collect(places: Places, check: bool = False, **keep: list[str]) -> dict[str, object]:
    parameters = {"flows": places.flows, "environments": places.environments, "cache": places.flows.parent / "cache"}
    return prefect_flow_collect.run(parameters | {"keep": keep, "names": [], "wait": 0, "packages": False}, check=check)


def test_check_mode_removes_nothing(places: Places) -> None:
    result = collect(places, check=True, demo=[NEW])
    assert (result["changed"], result["freed"]) == (True, len(OLD) + 1)
    assert (places.flows / "demo" / OLD).is_dir()


def test_a_collection_can_be_repeated_and_completes_an_interrupted_one(places: Places) -> None:
    (places.flows / "demo" / f".{OTHER}.removed").mkdir()
    assert len(unfinished(places)) == 1
    assert collect(places, demo=[])["changed"]
    assert not (places.flows / "demo").exists()
    assert not collect(places, demo=[])["changed"]
    assert unfinished(places) == []


def test_packages_go_that_no_environment_has(tmp_path: Path) -> None:
    cache, environments = tmp_path / "cache", tmp_path / "envs"
    environments.mkdir()
    index = cache / "uv/wheels-v7/index/0123"
    for name in ("used", "unused"):
        (cache / f"uv/archive-v0/{name}").mkdir(parents=True)
        (cache / f"uv/archive-v0/{name}/code.py").write_text("0123456789")
        (cache / "bytecode/00").mkdir(parents=True, exist_ok=True)
        os.link(cache / f"uv/archive-v0/{name}/code.py", cache / f"bytecode/00/{name}.py")
        (cache / f"bytecode/00/{name}.pyc").write_text("compiled")
        (index / name).mkdir(parents=True)
        (index / name / "1.0").symlink_to(f"../../../../archive-v0/{name}")
        (index / name / "1.0.rev").write_text("")
    os.link(cache / "uv/archive-v0/used/code.py", environments / "code.py")
    os.link(cache / "bytecode/00/used.pyc", environments / "code.pyc")
    assert remove_unused_packages(cache, environments) == len("0123456789") + len("compiled")
    left = {path.name for path in cache.rglob("*") if path.is_file() or path.is_symlink()}
    assert left == {"code.py", "used.py", "used.pyc", "1.0", "1.0.rev"}
    assert not any((index / "unused").iterdir())
    assert remove_unused_packages(cache, environments) == 0
