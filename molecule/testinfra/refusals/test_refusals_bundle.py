"""A bundle that is not what was built is refused by name, on a machine that has nothing of it yet."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from refusing import BUNDLE, CONTROLLER, Cluster, Refusal, refusal_of_program

REPOSITORY = Path(__file__).resolve().parents[3]
ARCHIVE = f"{BUNDLE}.tar.gz"

_FLIP = """
import os, sys
path = sys.argv[1]
with open(path, "rb") as stream:
    content = bytearray(stream.read())
content[len(content) // 2] ^= 0x10
os.unlink(path)  # a hard link of the good file
with open(path, "wb") as stream:
    stream.write(content)
"""
# Changes the manifest and its line in SHA256SUMS together, so that only the target is wrong.
_RETARGET = """
import hashlib, json, os
manifest = json.load(open("manifest.json"))
for target in manifest["targets"]:
    target.update(name="debian-13-x86_64", release="debian-13", codename="trixie", python="3.13")
text = json.dumps(manifest, indent=1, sort_keys=True) + "\\n"
sums = open("SHA256SUMS").read().splitlines(keepends=True)
line = hashlib.sha256(text.encode()).hexdigest() + "  manifest.json\\n"
sums = [line if entry.endswith("  manifest.json\\n") else entry for entry in sums]
for name, content in (("manifest.json", text), ("SHA256SUMS", "".join(sums))):
    os.unlink(name)
    with open(name, "w") as stream:
        stream.write(content)
"""


@pytest.fixture(scope="module")
def good(cluster: Cluster, fresh: str) -> Iterator[str]:
    """Return the directory with a good unpacked bundle, ``good``, on the fresh machine."""
    pipe(cluster, f"cat {ARCHIVE}", fresh, "mkdir -p good && tar -xzf - -C good")
    yield "good"
    cluster.do(fresh, "sudo rm -rf good")


@pytest.fixture
def bad(cluster: Cluster, fresh: str, good: str) -> Iterator[str]:
    """Return a directory with a copy of the good bundle, to be spoiled; its files are hard links."""
    cluster.do(fresh, f"rm -rf bad && mkdir bad && cp -al {good}/{BUNDLE} bad/")
    yield f"bad/{BUNDLE}"
    cluster.do(fresh, "rm -rf bad")


def pipe(cluster: Cluster, source: str, machine: str, sink: str) -> None:
    """Run a command on the controller, and another one on *machine* that reads what it prints."""
    with subprocess.Popen([*cluster.ssh(CONTROLLER), source], stdout=subprocess.PIPE) as process:
        subprocess.run([*cluster.ssh(machine), sink], stdin=process.stdout, check=True)
    assert process.returncode == 0


def install(cluster: Cluster, machine: str, directory: str, *, prefix: str = "") -> Refusal:
    """Install as the README says."""
    command = f"cd {directory} && {prefix} bash install-pag-controller.sh"
    return refusal_of_program(cluster.run(machine, command))


@pytest.mark.parametrize("pattern", ["mirror/pypi/*.whl", "mirror/apt/*/*.deb", "ansible/main.yml", "airgap/verify.py"])
def test_a_flipped_bit(cluster: Cluster, fresh: str, bad: str, pattern: str) -> None:
    path = cluster.do(fresh, f"cd {bad} && ls {pattern} | head -n 1").strip()
    if path.startswith("airgap/"):
        # In what runs, a flipped bit must not break the program that is to find it.
        cluster.do(fresh, f"cd {bad} && cp {path} x && rm {path} && sed '1s/Checks/Cheaks/' x > {path} && rm x")
    else:
        cluster.do(fresh, f"cd {bad} && python3 - {path}", stdin=_FLIP)
    with cluster.unchanged(ask_server=False):
        install(cluster, fresh, bad).names(path, "damaged")


def test_a_missing_file(cluster: Cluster, fresh: str, bad: str) -> None:
    path = cluster.do(fresh, f"cd {bad} && ls mirror/pypi/*.whl | head -n 1").strip()
    cluster.do(fresh, f"rm {bad}/{path}")
    with cluster.unchanged(ask_server=False):
        install(cluster, fresh, bad).names(path, "missing")


@pytest.mark.parametrize("path", ["mirror/pypi/extra-1.0-py3-none-any.whl", "ansible/group_vars/prefect_workers.yml"])
def test_an_extra_file(cluster: Cluster, fresh: str, bad: str, path: str) -> None:
    cluster.do(fresh, f"echo 'pag_root: /tmp' > {bad}/{path}")
    with cluster.unchanged(ask_server=False):
        install(cluster, fresh, bad).names(path, "should not be there")


def test_a_truncated_archive(cluster: Cluster, fresh: str) -> None:
    size = int(cluster.do(CONTROLLER, f"stat -c %s {ARCHIVE}"))
    pipe(cluster, f"head -c {size // 3} {ARCHIVE}", fresh, f"mkdir -p cut && cat > cut/{ARCHIVE}")
    try:
        with cluster.unchanged(ask_server=False):
            unpacked = cluster.run(fresh, f"cd cut && tar -xf {ARCHIVE}")
            assert unpacked.returncode != 0, "tar took a truncated archive"
            # Who does not look at what tar says, goes on.
            refusal = install(cluster, fresh, f"cut/{BUNDLE}")
            assert refusal.returncode != 0
            assert len(refusal.sentences) == 1, refusal.output
            assert "missing" in refusal.sentences[0] or "not a whole" in refusal.sentences[0]
    finally:
        cluster.do(fresh, "rm -rf cut")


def test_a_truncated_archive_before_it_is_carried(tmp_path: Path, cluster: Cluster) -> None:
    source = subprocess.run([*cluster.ssh(CONTROLLER), f"head -c 3000000 {ARCHIVE}"], capture_output=True, check=True)
    archive = tmp_path / ARCHIVE
    archive.write_bytes(source.stdout)
    # The system's Python, as operators have it, and not that of the tests.
    command = [shutil.which("python3", path=os.defpath), REPOSITORY / "build-bundle.py", "verify", archive]
    refusal_of_program(subprocess.run(command, capture_output=True, text=True)).names(ARCHIVE, "truncated or damaged")
    assert [file.name for file in tmp_path.iterdir()] == [ARCHIVE]


def test_a_bundle_for_another_release(cluster: Cluster, fresh: str, bad: str) -> None:
    cluster.do(fresh, f"cd {bad} && python3 -", stdin=_RETARGET)
    with cluster.unchanged(ask_server=False):
        install(cluster, fresh, bad).names("built for debian-13-x86_64", "debian-12-x86_64", "--target")


def test_another_release_of_the_controller(cluster: Cluster, fresh: str, good: str) -> None:
    cluster.do(fresh, "sudo cp --preserve /usr/lib/os-release os-release")
    cluster.do(fresh, "sudo sed -i 's/^VERSION_ID=.*/VERSION_ID=\"13\"/' /usr/lib/os-release")
    cluster.forget()
    try:
        with cluster.unchanged(ask_server=False):
            install(cluster, fresh, f"{good}/{BUNDLE}").names("debian-13-x86_64", "built for debian-12-x86_64")
    finally:
        cluster.do(fresh, "sudo cp --preserve os-release /usr/lib/os-release")
        cluster.forget()


def test_another_architecture_of_the_controller(cluster: Cluster, fresh: str, good: str) -> None:
    # setarch changes what uname says, and so what everybody believes.
    with cluster.unchanged(ask_server=False):
        install(cluster, fresh, f"{good}/{BUNDLE}", prefix="setarch i686").names("i686", "debian-12")


def test_a_full_disk_of_the_controller(cluster: Cluster, fresh: str, good: str) -> None:
    cluster.do(fresh, "fallocate -l $(($(stat -f -c '%a * %S' .) - 300000000)) filler")
    try:
        with cluster.unchanged(ask_server=False):
            install(cluster, fresh, f"{good}/{BUNDLE}").names("/opt has", "MB free", "are needed")
    finally:
        cluster.do(fresh, "rm filler")


def test_a_disk_that_fills_up_while_an_environment_is_installed(cluster: Cluster, fresh: str, good: str) -> None:
    """What a node runs, alone: it ends with one sentence, and with nearly as much room as before."""
    bundle, options = f"{good}/{BUNDLE}", f"--mirror {good}/{BUNDLE}/mirror"
    toolkit = f"--description {bundle}/environments/toolkit.debian-12-x86_64.json {options} --root full/toolkit"
    cluster.do(fresh, f"mkdir full && PYTHONPATH={bundle} python3 -B -m airgap.toolkit {toolkit}")
    room = "stat -f -c '%a * %S' ."
    cluster.do(fresh, f"fallocate -l $(($({room}) - 40000000)) filler && sync")
    command = (
        f"PYTHONPATH=full/toolkit/current python3 -B -m airgap.install {options} --root full/envs --cache full/cache"
        f" --description {bundle}/environments/prefect.debian-12-x86_64.json --link full/link"
    )
    try:
        refusal_of_program(cluster.run(fresh, command)).names("no space left", "full/envs", "prefect")
        assert int(cluster.do(fresh, f"echo $(($({room})))")) > 30_000_000, "the disk is still full"
        left = cluster.do(fresh, "find full -name .complete; find full/envs -mindepth 1 ! -name .lock; ls full")
        assert "link" not in left.split(), left
        assert left.split() == ["cache", "envs", "toolkit"], left
    finally:
        cluster.do(fresh, "rm -rf filler full")
