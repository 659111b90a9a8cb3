"""The controller's script outside of a bundle: volumes in any order from several directories, and what it refuses.

It never gets as far as installing: the bundle is for a system that no host is.
"""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from sites import digest, tree, wheel, write_bundle

pytestmark = pytest.mark.process

ARCHIVE = "pag-software-bundle.tar.gz"


@pytest.fixture
def archive(tmp_path: Path, repository: Path) -> Path:
    target = "ubuntu-22.04-aarch64"
    bundle = write_bundle(tmp_path / "pag-software-bundle", wheel("a", b"x" * 100_000), targets=(target,))
    shutil.rmtree(bundle / "airgap")
    script = (repository / "install-pag-controller.sh").read_bytes()
    software = {
        path.relative_to(repository).as_posix(): path.read_bytes() for path in (repository / "airgap").glob("*.py")
    }
    others = {**software, "install-pag-controller.sh": script}
    write_bundle(bundle, wheel("a", b"x" * 100_000), others, targets=(target,))
    with tarfile.open(tmp_path / ARCHIVE, "w:gz", compresslevel=0) as tar:
        tar.add(bundle, bundle.name)
    shutil.rmtree(bundle)
    return tmp_path / ARCHIVE


@pytest.fixture
def discs(archive: Path, tmp_path: Path, repository: Path) -> list[Path]:
    """Three volumes on two discs, each with the index and the script."""
    content = archive.read_bytes()
    third = len(content) // 3 + 1
    volumes = {f"{ARCHIVE}.{number + 1:03}": content[number * third :][:third] for number in range(3)}
    index = "".join(f"{digest(volume)}  {name}\n" for name, volume in volumes.items())
    index += f"{digest(content)}  {ARCHIVE}\n"
    found = [tmp_path / "disc one", tmp_path / "disc two"]
    for disc in found:
        disc.mkdir()
        (disc / f"{ARCHIVE}.sha256").write_text(index)
        shutil.copyfile(repository / "install-pag-controller.sh", disc / "install-pag-controller.sh")
    for number, (name, volume) in enumerate(volumes.items()):
        (found[number % 2] / name).write_bytes(volume)
    archive.unlink()
    return found


@pytest.fixture
def appended(archive: Path, tmp_path: Path) -> None:
    """Have the volumes hold an inventory that is on no list."""
    (tmp_path / "inventory.yml").write_bytes(b"all: {}\n")
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive.read_bytes()))) as old:
        members = [(member, old.extractfile(member)) for member in old]
        with tarfile.open(archive, "w:gz", compresslevel=0) as new:
            for member, content in members:
                new.addfile(member, content)
            new.add(tmp_path / "inventory.yml", "pag-software-bundle/ansible/inventory.yml")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    directory = tmp_path / "here"
    directory.mkdir()
    return directory


def _run(discs: list[Path], here: Path, script: Path | None = None) -> tuple[str, str]:
    command = ["bash", str(script or discs[0] / "install-pag-controller.sh"), *map(str, discs)]
    finished = subprocess.run(command, cwd=here, capture_output=True, text=True)
    assert finished.returncode == 1
    return finished.stdout, finished.stderr


def test_volumes_are_unpacked_in_any_order_of_directories_and_verified(discs: list[Path], here: Path) -> None:
    printed, said = _run(discs[::-1], here)
    assert "unpacking 3 volumes" in printed
    assert "all as listed" in printed
    # Nothing is put into its place before everything is checked.
    assert "This bundle was built for ubuntu-22.04-aarch64" in said
    assert not (here / "pag-software-bundle").exists()


@pytest.mark.usefixtures("appended")
def test_volumes_with_an_inventory_that_is_on_no_list_are_refused(discs: list[Path], here: Path) -> None:
    printed, said = _run(discs, here)
    assert "all as listed" not in printed
    assert "ansible/inventory.yml should not be there. Carry it over again." in said


def test_the_scripts_own_directory_is_the_default(discs: list[Path], here: Path) -> None:
    for path in discs[1].iterdir():
        path.replace(discs[0] / path.name)
    printed, _ = _run([], here, discs[0] / "install-pag-controller.sh")
    assert "all as listed" in printed


def test_missing_and_damaged_volumes_are_all_named(discs: list[Path], here: Path) -> None:
    (discs[0] / f"{ARCHIVE}.001").write_bytes(b"scratched")
    printed, said = _run(discs[:1], here)
    assert f"damaged: {discs[0]}/{ARCHIVE}.001" in said
    assert f"missing: {ARCHIVE}.002" in said
    assert f"{ARCHIVE}.003 is whole" in printed
    assert "2 of 3 volumes are missing or damaged" in said
    assert list(here.iterdir()) == []


def test_a_damaged_copy_does_no_harm_where_another_is_whole(discs: list[Path], here: Path) -> None:
    (discs[1] / f"{ARCHIVE}.001").write_bytes(b"scratched")
    printed, _ = _run(discs[::-1], here)
    assert "all as listed" in printed


def test_discs_of_two_bundles_are_not_mixed(discs: list[Path], here: Path) -> None:
    with (discs[1] / f"{ARCHIVE}.sha256").open("a") as stream:
        stream.write("\n")
    _, said = _run(discs, here)
    assert "are of two bundles" in said
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "line", ["0" * 64 + "  ../../etc/passwd", "0" * 64 + f"  {ARCHIVE}.001.x", "x", "0" * 63 + f"  {ARCHIVE}.001"]
)
def test_an_index_that_is_none_is_refused(discs: list[Path], here: Path, line: str) -> None:
    for disc in discs:
        (disc / f"{ARCHIVE}.sha256").write_text(line + "\n")
    _, said = _run(discs, here)
    assert "is no index of volumes" in said


def test_no_volumes_at_all(discs: list[Path], here: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    _, said = _run([tmp_path / "empty"], here, discs[0] / "install-pag-controller.sh")
    assert "name the directories that have the volumes" in said


def test_an_existing_bundle_stays_as_it_is_when_the_new_one_is_refused(discs: list[Path], here: Path) -> None:
    old = write_bundle(here / "pag-software-bundle", wheel("b"))
    (old / "ansible/inventory.yml").write_bytes(b"all: {}\n")
    before = tree(old)
    _run(discs, here)
    assert tree(old) == before


def test_what_is_no_bundle_is_not_overwritten(discs: list[Path], here: Path) -> None:
    (here / "pag-software-bundle").mkdir()
    _, said = _run(discs, here)
    assert "is no unpacked bundle: move it away" in said


def test_in_an_unpacked_bundle_directories_are_no_arguments(here: Path, repository: Path) -> None:
    bundle = write_bundle(here / "pag-software-bundle", wheel("b"))
    script = Path(shutil.copy(repository / "install-pag-controller.sh", bundle))
    _, said = _run([here], here, script)
    assert "is an unpacked bundle" in said
    _, said = _run([], here, Path(shutil.copy(script, here)))
    assert "neither an unpacked bundle nor" in said


@pytest.mark.parametrize("arguments", [["--with"], ["--with", "/nonexistent"], ["--unknown"], ["/nonexistent"]])
def test_wrong_arguments_are_refused(here: Path, repository: Path, arguments: list[str]) -> None:
    script = Path(shutil.copy(repository / "install-pag-controller.sh", here))
    finished = subprocess.run(["bash", str(script), *arguments], cwd=here, capture_output=True, text=True)
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: ")


def test_help_is_the_scripts_head(repository: Path) -> None:
    script = repository / "install-pag-controller.sh"
    finished = subprocess.run(["bash", str(script), "--help"], capture_output=True, text=True, check=True)
    assert finished.stdout.startswith("Make this host the controller")
    assert "--with DIR" in finished.stdout
    assert "#" not in finished.stdout
