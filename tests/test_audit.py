"""What belongs on a machine, from packages; that installed environments are so is in ansible/test_audit_node.py."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from audited import PLACEHOLDER, describe
from installables import Node, this_hosts_target

from airgap.audit import Machine, expected
from airgap.audit_conda import replaced
from airgap.audit_debian import debian_checksums
from airgap.audit_rules import record_digest
from airgap.environment import Environment
from airgap.errors import ManifestError, VerificationError
from airgap.hashing import sha256_of_bytes, sha256_of_file

TARGET = this_hosts_target()
pytestmark = pytest.mark.skipif(TARGET is None, reason="the host is no target, or lacks its own python3")
NEEDS_DPKG = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    directory.mkdir()
    return directory


@pytest.fixture
def node(tmp_path: Path) -> Node:
    assert TARGET is not None
    return Node(tmp_path, TARGET)


def machine(node: Node, base: str = "prefect") -> Machine:
    return Machine(node.target.name, node.root, node.link, base)


def work_out(root: Path, node: Node, tmp_path: Path, base: str = "prefect") -> dict[str, Any]:
    return expected(root, machine(node, base), tmp_path)


def test_without_a_bundle_there_is_nothing_to_compare_with(root: Path, node: Node, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no bundle below"):
        work_out(root, node, tmp_path)


def test_an_environment_is_listed_with_its_link(root: Path, node: Node, tmp_path: Path) -> None:
    environment = Environment.from_file(describe(node, root=root))
    document = work_out(root, node, tmp_path)
    directory = str(node.root / environment.directory_name)
    assert list(document["environments"]) == [directory]
    assert document["links"] == {str(node.link): [directory]}
    rules = document["environments"][directory]["rules"]
    assert rules[".complete"] == sha256_of_bytes(f"{environment.digest}\n".encode())
    assert {"activate.sh", "run", "env/bin/Gamma", "env/bin/pure", "env/bin/native"} <= rules.keys()
    assert document["debian"] == document["flows"] == {}


def test_a_changed_description_is_refused(root: Path, node: Node, tmp_path: Path) -> None:
    description = describe(node, root=root)
    description.write_text(description.read_text() + "\n")
    with pytest.raises(VerificationError, match="is not the one of the bundle"):
        work_out(root, node, tmp_path)


def test_a_kept_bundles_environments_are_known(root: Path, node: Node, tmp_path: Path) -> None:
    old = describe(node, root=root)
    digest = sha256_of_file(old)
    kept = root / "bundles/0001-0123456789ab"
    kept.mkdir(parents=True)
    (root / "manifest.json").rename(kept / "manifest.json")
    (root / "files" / digest[:2]).mkdir(parents=True)
    old.rename(root / "files" / digest[:2] / digest)
    describe(node, "other", root=root)
    document = work_out(root, node, tmp_path)
    assert sorted(Path(path).name.partition("-")[0] for path in document["environments"]) == ["other", "prefect"]


def test_a_damaged_package_is_refused(root: Path, node: Node, tmp_path: Path) -> None:
    describe(node, root=root)
    wheel = next(root.glob("mirror/pypi/*.whl"))
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(VerificationError, match=r"Gamma_Ray-1\.0-py3-none-any\.whl differs"):
        work_out(root, node, tmp_path)


def test_an_environment_whose_packages_are_gone_cannot_be_audited(root: Path, node: Node, tmp_path: Path) -> None:
    describe(node, root=root)
    next(root.glob("mirror/pypi/*.whl")).unlink()
    [entry] = work_out(root, node, tmp_path)["environments"].values()
    assert entry == {"reason": "the controller's mirror no longer has pypi/Gamma_Ray-1.0-py3-none-any.whl"}


def test_the_controllers_environment_is_apart(root: Path, node: Node, tmp_path: Path) -> None:
    describe(node, "controller", root=root)
    assert work_out(root, node, tmp_path)["environments"] == {}
    assert len(work_out(root, node, tmp_path, "controller")["environments"]) == 1


def test_the_command_writes_the_list(root: Path, node: Node, tmp_path: Path) -> None:
    describe(node, root=root)
    output = tmp_path / "list"
    options = ["--root", root, "--target", node.target.name, "--environments", node.root, "--link", node.link]
    command = [sys.executable, "-m", "airgap.audit", *options, "--base", "prefect", "--output", output]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["environments"] == 1
    document = json.loads(zlib.decompress(base64.b64decode(output.read_text())))
    assert document == work_out(root, node, tmp_path)


def test_deployed_code_is_listed_and_checked(root: Path, node: Node, tmp_path: Path) -> None:
    describe(node, root=root)
    code = root / "flows/demo/daily/code"
    code.mkdir(parents=True)
    (code / "main.py").write_text("pass\n")
    listing = f"{sha256_of_file(code / 'main.py')}  main.py\n"
    record = {"flow": "demo", "deployment": "daily", "files": ["main.py"], "environments": {}}
    record |= {"digest": sha256_of_bytes(listing.encode())}
    (code.parent / "record.json").write_text(json.dumps(record))
    [(name, rules)] = work_out(root, node, tmp_path)["flows"].items()
    assert name == f"demo/{record['digest'][:12]}"
    assert rules["main.py"] == sha256_of_file(code / "main.py")
    (code / "main.py").write_text("other\n")
    with pytest.raises(VerificationError, match="is not what was deployed"):
        work_out(root, node, tmp_path)


def test_kept_versions_are_listed_with_their_environment(root: Path, node: Node, tmp_path: Path) -> None:
    describe(node, root=root)
    code = root / "flows/demo/daily/versions/0123456789ab/code"
    code.mkdir(parents=True)
    (code / "main.py").write_text("pass\n")
    digest = sha256_of_bytes(f"{sha256_of_file(code / 'main.py')}  main.py\n".encode())
    entry = {"description": "d.json", "directory": "demo-0123456789ab", "digest": "0" * 64}
    record = {"flow": "demo", "deployment": "daily", "version": "0123456789ab", "files": ["main.py"], "digest": digest}
    description = next((root / "environments").glob("*.json")).read_bytes()
    (code.parent / "d.json").write_bytes(description)
    (code.parent / "record.json").write_text(json.dumps(record | {"environments": {node.target.name: entry}}))
    [(name, rules)] = work_out(root, node, tmp_path)["flows"].items()
    assert name == "demo/0123456789ab"
    assert rules[".environment"] == "-> ../../../envs/demo-0123456789ab"
    marker = f"code {digest}\nenvironment {node.target.name} {'0' * 64}\n"
    assert rules[".complete"] == sha256_of_bytes(marker.encode())


def test_text_and_binary_files_get_the_prefix() -> None:
    old = PLACEHOLDER.encode()
    assert replaced(b"a " + old + b"/b " + old, old, b"/p", binary=False) == b"a /p/b /p"
    content = b"\0" + old + b"/b:" + old + b"\0rest"
    result = replaced(content, old, b"/p", binary=True)
    assert len(result) == len(content)
    assert result.rstrip(b"rest").rstrip(b"\0") == b"\0/p/b:/p"
    assert result.endswith(b"\0rest")


@pytest.mark.parametrize(
    ("line", "detour"),
    [
        (b"sh -e", b"#!/usr/bin/env sh -e"),
        (b"python3", b"#!/bin/sh\n'''exec' \"%s/bin/python3\" \"$0\" \"$@\" #'''"),
    ],
)
def test_a_first_line_too_long_for_linux_takes_a_detour(line: bytes, detour: bytes) -> None:
    old = PLACEHOLDER.encode()
    prefix = b"/long" * 30
    content = b"#!" + old + b"/bin/" + line + b"\n" + old
    assert replaced(content, old, prefix, binary=False) == detour.replace(b"%s", prefix) + b"\n" + prefix


def test_a_record_is_compared_by_its_rows() -> None:
    rows = [["b.py", "", ""], ["a.py", "sha256=x", "1"]]
    note = [["a-1.dist-info/uv_cache.json", "sha256=time", "127"]]
    assert record_digest(rows) == record_digest(rows[::-1] + note)
    assert record_digest(rows) != record_digest([["b.py", "", ""], ["a.py", "sha256=y", "1"]])


def make_deb(directory: Path, name: str, *, md5sums: bool) -> Path:
    tree = directory / f"{name}.tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "etc").mkdir()
    (tree / f"usr/bin/{name}").write_text("program\n")
    (tree / f"etc/{name}.conf").write_text("setting\n")
    control = f"Package: {name}\nVersion: 1.0-1\nArchitecture: all\nMaintainer: T <t@test.invalid>\nDescription: t\n"
    (tree / "DEBIAN/control").write_text(control)
    (tree / "DEBIAN/conffiles").write_text(f"/etc/{name}.conf\n")
    if md5sums:
        (tree / "DEBIAN/md5sums").write_text(f"{'0' * 32}  usr/bin/{name}\n")
    file = directory / f"{name}_1.0-1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, file], check=True, capture_output=True)
    return file


@NEEDS_DPKG
def test_checksums_come_from_the_packages(tmp_path: Path) -> None:
    files = [make_deb(tmp_path, "with", md5sums=True), make_deb(tmp_path, "without", md5sums=False)]
    make_deb(tmp_path, "unknown", md5sums=True)
    accepted = {file.name: {sha256_of_file(file)} for file in files}
    assert debian_checksums(tmp_path, accepted) == {
        "with 1.0-1 all": f"{'0' * 32}  usr/bin/with\n",
        # MD5 of "program\n"; configuration files have a place of their own.
        "without 1.0-1 all": "014ad490257f1757f32f4c106284b1e1  usr/bin/without\n",
    }


@NEEDS_DPKG
def test_a_damaged_debian_package_is_refused(tmp_path: Path) -> None:
    file = make_deb(tmp_path, "with", md5sums=True)
    with pytest.raises(VerificationError, match=r"with_1\.0-1_all\.deb is damaged"):
        debian_checksums(tmp_path, {file.name: {"0" * 64}})
