"""The environments on the nodes."""

from __future__ import annotations

import json
from collections.abc import Callable

from cluster_site import SERVER
from testinfra.host import Host

On = Callable[[str], Host]


def _environments(host: Host, prefix: str = "") -> list[str]:
    return host.check_output(f"find /opt/prefect/envs -mindepth 1 -maxdepth 1 -type d -name '{prefix}[!.]*'").split()


def test_the_base_environment_is_linked(on: On) -> None:
    link = on(SERVER).file("/opt/prefect/pixi-env")
    assert link.is_symlink
    assert link.linked_to in _environments(on(SERVER), "prefect-")


def test_environments_are_complete_and_only_root_changes_them(on: On) -> None:
    for name in (SERVER, "pag-worker-1"):
        for environment in _environments(on(name)):
            assert on(name).file(f"{environment}/.complete").exists, environment
        writable = on(name).check_output(
            "find /opt/prefect/envs ! -type l '(' ! -user root -o -perm /022 ')' -print -quit"
        )
        assert writable == ""


def test_a_second_environment_shares_its_packages(on: On) -> None:
    host = on("pag-worker-1")
    base = host.file("/opt/prefect/pixi-env").linked_to
    others = [environment for environment in _environments(host) if environment != base]
    assert others
    for other in others:
        # du counts a hard-linked file once: what the second adds is its own.
        lines = host.check_output(f"du --summarize --block-size=1 {base} {other}").splitlines()
        assert int(lines[1].split()[0]) < 15_000_000, lines


def test_no_link_dangles(on: On) -> None:
    assert on("pag-worker-1").check_output("find /opt/prefect/envs -xtype l -print -quit") == ""


def test_descriptions_and_manifest_are_of_one_bundle(on: On) -> None:
    manifest = json.loads(on("pag-controller").file("/opt/pag/manifest.json").content_string)
    names = {environment["name"] for environment in manifest["environments"]}
    assert {"prefect", "controller", "toolkit"} <= names
