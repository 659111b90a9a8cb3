from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from executables import make_executable
from wheels import make_wheel

from airgap.environment import Environment, PackageFile
from airgap.errors import ManifestError, PackError
from airgap.hashing import sha256_of_bytes, sha256_of_file
from airgap.index_formats import parse_project, parse_repodata
from airgap.manifest import Manifest, ManifestFile
from airgap.pack import ImportedPack, import_pack, main, read_pack, write_pack
from airgap.pack_import import forget_pack
from airgap.pack_writer import Thin
from airgap.system_python import system_python_package
from airgap.targets import parse_target

TARGET = parse_target("debian-12")
PREFECT = "pypi/prefect-3.8.8-py3-none-any.whl"
CONTENTS = {PREFECT: make_wheel("prefect", "3.8.8"), "pypi/cowpy-1.1.5-py3-none-any.whl": make_wheel("cowpy", "1.1.5")}


@dataclass
class Site:
    """A mirror that a pack is made from, a flow's directory, and a controller."""

    directory: Path

    @property
    def pack(self) -> Path:
        return self.directory / "flow/packed-env.tar"

    @property
    def mirror(self) -> Path:
        return self.directory / "controller/mirror"

    @property
    def environments(self) -> Path:
        return self.directory / "controller/environments"

    def environment(self, contents: dict[str, bytes] = CONTENTS) -> Environment:
        file, python = system_python_package(TARGET)
        for path, content in {python.path: file.content, **contents}.items():
            (self.directory / "source" / path).parent.mkdir(parents=True, exist_ok=True)
            (self.directory / "source" / path).write_bytes(content)
        wheels = [
            PackageFile(path, sha256_of_bytes(content), len(content), *path[5:].split("-")[:2])
            for path, content in contents.items()
        ]
        return Environment("x", TARGET.name, "system", "3.11", "linux-64", (python,), tuple(wheels))

    def write(self, environment: Environment, without: Collection[str] = ()) -> None:
        self.pack.parent.mkdir(exist_ok=True)
        write_pack(environment, lambda path: self.directory / "source" / path, self.pack, Thin("ab" * 32, without))
        lines = [f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in environment.wheels]
        (self.directory / "flow/requirements.txt").write_text("".join(lines))

    def rewrite(self, change: Callable[[dict[str, bytes | tarfile.TarInfo]], object]) -> None:
        """Write the pack again with *change* applied to its contents; a value may be a link or so instead of bytes."""
        members: dict[str, bytes | tarfile.TarInfo] = {}
        with tarfile.open(self.pack) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                assert stream is not None
                members[member.name] = stream.read()
        change(members)
        with tarfile.open(self.pack, "w") as archive:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                if isinstance(content, bytes):
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                else:
                    archive.addfile(content)

    def bring(self, *, check: bool = False, manifest: Path | None = None, target: str = "debian-12") -> ImportedPack:
        return import_pack(
            self.pack, self.pack.parent, self.mirror, self.environments, "demo", parse_target(target),
            check=check, manifest=manifest,
        )  # fmt: skip

    def refusal(self, **arguments: str) -> str:
        """Return why the pack is refused, after a look that nothing was changed."""
        before = self.state()
        with pytest.raises(PackError) as caught:
            self.bring(**arguments)  # type: ignore[arg-type]
        assert self.state() == before
        return str(caught.value)

    def state(self) -> dict[str, str]:
        controller = self.directory / "controller"
        return {str(path): sha256_of_file(path) for path in controller.rglob("*") if path.is_file()}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.write(site.environment())
    return site


def test_what_is_written_is_read_back(site: Site) -> None:
    contents = read_pack(site.pack)
    assert contents.platform == "linux-64"
    assert sorted(contents.files, key=lambda file: file.path) == sorted(
        site.environment().files, key=lambda file: file.path
    )


def test_is_pixi_packs_format_version_1(site: Site) -> None:
    with tarfile.open(site.pack, "r:") as archive:
        names = archive.getnames()
        metadata = json.loads(archive.extractfile("pixi-pack.json").read())  # type: ignore[union-attr]
        repodata = json.loads(archive.extractfile("channel/linux-64/repodata.json").read())  # type: ignore[union-attr]
    assert names == sorted(names)
    assert names == [
        "channel/linux-64/python-3.11-system_0.tar.bz2", "channel/linux-64/repodata.json",
        "channel/noarch/repodata.json", "environment.yml", "pixi-pack.json",
        "pypi/cowpy-1.1.5-py3-none-any.whl", PREFECT,
    ]  # fmt: skip
    assert metadata["version"] == "1"
    assert metadata["platform"] == "linux-64"
    assert list(repodata["packages.conda"]) == ["python-3.11-system_0.tar.bz2"]


def test_same_environment_gives_same_bytes(site: Site) -> None:
    first = site.pack.read_bytes()
    site.write(site.environment())
    assert site.pack.read_bytes() == first


def test_a_name_longer_than_posix_tar_takes_is_written(site: Site) -> None:
    long = f"pypi/{'a' * 60}-1.0-cp311-cp311-{'.'.join(['manylinux_2_17_x86_64', 'manylinux2014_x86_64'] * 3)}.whl"
    site.write(site.environment(CONTENTS | {long: b"x"}))
    assert long in {file.path for file in read_pack(site.pack).files}


def test_a_damaged_package_is_not_packed(site: Site) -> None:
    environment = site.environment()
    before = site.pack.read_bytes()
    (site.directory / "source" / PREFECT).write_bytes(b"other")
    with pytest.raises(PackError, match=r"prefect-3\.8\.8.* is not the"):
        site.write(environment)
    assert site.pack.read_bytes() == before


def test_brings_the_packages_into_the_mirror_and_describes_them(site: Site) -> None:
    imported = site.bring()
    assert imported.changed
    assert imported.environment.version_of("prefect") == "3.8.8"
    assert Environment.from_file(imported.description).digest == site.environment().digest
    for file in imported.environment.files:
        assert sha256_of_file(site.mirror / file.path) == file.sha256
    before = site.state()
    assert not site.bring().changed
    assert site.state() == before


def test_check_mode_says_so_and_changes_nothing(site: Site) -> None:
    assert site.bring(check=True).changed
    assert site.state() == {}
    site.bring()
    assert not site.bring(check=True).changed


def test_reads_what_pixi_pack_wrote_with_conda_packages_in_either_list(site: Site) -> None:
    def move(members: dict[str, bytes | tarfile.TarInfo]) -> None:
        index = json.loads(members["channel/linux-64/repodata.json"])  # type: ignore[arg-type]
        index["packages"] = index.pop("packages.conda")
        members["channel/linux-64/repodata.json"] = json.dumps(index).encode()

    site.rewrite(move)
    assert site.bring().environment.python == "3.11"


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_refuses_a_truncated_pack(site: Site, kept: float) -> None:
    content = site.pack.read_bytes().rstrip(b"\0")
    site.pack.write_bytes(content[: int(len(content) * kept)])
    assert "is cut short" in site.refusal()


def test_refuses_a_pack_cut_at_the_end_of_a_member(site: Site) -> None:
    content = site.pack.read_bytes()
    site.pack.write_bytes(content.rstrip(b"\0") + bytes(512 - len(content.rstrip(b"\0")) % 512))
    assert "is cut short" in site.refusal()


@pytest.mark.parametrize(
    "name", ["../outside.whl", "pypi/../../outside.whl", "/etc/cron.d/x", "channel/linux-64/../../../x.conda"]
)
def test_refuses_paths_that_leave_the_archive(site: Site, name: str) -> None:
    site.rewrite(lambda members: members.update({name: b"x"}))
    assert f"{name!r}, which leads out of the archive" in site.refusal()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_refuses_links_and_devices(site: Site, kind: bytes) -> None:
    link = tarfile.TarInfo("pypi/link-1.0-py3-none-any.whl")
    link.type, link.linkname = kind, PREFECT
    site.rewrite(lambda members: members.update({link.name: link}))
    assert "is a link or no ordinary file" in site.refusal()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pypi/cowpy-1.1.5.tar.gz", "holds pypi/cowpy-1.1.5.tar.gz, which is no wheel"),
        ("pypi/cowpy.whl", "is not the name of a wheel"),
        ("run.sh", "holds run.sh, which is no part of a pack"),
        ("channel/noarch/extra-1.0-0.conda", "do not list the same packages (channel/noarch/extra-1.0-0.conda)"),
        ("pypi/torch-2.0-cp312-cp312-linux_x86_64.whl", "does not run on debian-12-x86_64 with Python 3.11"),
    ],
)
def test_refuses_files_that_do_not_belong(site: Site, name: str, reason: str) -> None:
    site.rewrite(lambda members: members.update({name: b"x"}))
    assert reason in site.refusal()


def test_refuses_a_wheel_whose_hash_is_not_in_the_lock(site: Site) -> None:
    site.rewrite(lambda members: members.update({PREFECT: make_wheel("prefect", "3.8.8", files={"evil.py": ""})}))
    message = site.refusal()
    assert "holds packages whose hash is not in requirements.txt (prefect-3.8.8-py3-none-any.whl)" in message


def test_refuses_wheels_when_there_is_no_lock(site: Site) -> None:
    (site.pack.parent / "requirements.txt").unlink()
    assert "has no pixi.lock or requirements.txt" in site.refusal()


def test_takes_wheels_that_the_bundle_knows(site: Site) -> None:
    (site.pack.parent / "requirements.txt").unlink()
    assert site.bring(manifest=write_manifest(site, site.environment())).changed


def test_takes_wheels_that_a_delta_relies_on(site: Site) -> None:
    (site.pack.parent / "requirements.txt").unlink()
    path = write_manifest(site, site.environment())
    manifest = Manifest.from_file(path)
    path.write_text(replace(manifest, files=(), relies_on=manifest.files, base="ab" * 32).to_json())
    assert site.bring(manifest=path).changed


def test_refuses_another_file_than_the_bundles_of_the_same_name(site: Site) -> None:
    environment = site.environment()
    other = replace(environment, wheels=tuple(replace(wheel, sha256="0" * 64) for wheel in environment.wheels))
    assert "than the bundle" in site.refusal(manifest=write_manifest(site, other))  # type: ignore[arg-type]


def test_refuses_to_replace_another_file_in_the_mirror(site: Site) -> None:
    (site.mirror / PREFECT).parent.mkdir(parents=True)
    (site.mirror / PREFECT).write_bytes(b"another build of the same version")
    assert f"The mirror has another {PREFECT}" in site.refusal()


def test_refuses_a_conda_package_that_is_not_its_records(site: Site) -> None:
    site.rewrite(lambda members: members.update({"channel/linux-64/python-3.11-system_0.tar.bz2": b"x"}))
    assert "whose SHA-256 is not its record's" in site.refusal()


def test_refuses_conda_packages_that_a_pixi_lock_does_not_name(site: Site) -> None:
    site.write(site.environment({}))
    content = b"content"
    record = {"name": "prefect", "version": "3.8.8", "subdir": "noarch", "sha256": sha256_of_bytes(content)}
    index = {"packages.conda": {"prefect-3.8.8-0.conda": record}}

    def add(members: dict[str, bytes | tarfile.TarInfo]) -> None:
        members["channel/noarch/repodata.json"] = json.dumps(index).encode()
        members["channel/noarch/prefect-3.8.8-0.conda"] = content

    site.rewrite(add)
    (site.pack.parent / "pixi.lock").write_text("version: 6\n")
    assert "hash is not in pixi.lock" in site.refusal()
    (site.pack.parent / "pixi.lock").write_text(f"version: 6\n# {record['sha256']}\n")
    assert record in [package.record for package in site.bring().environment.conda]


def test_refuses_a_pack_for_another_platform(site: Site) -> None:
    site.rewrite(lambda members: members.update(described(platform="linux-aarch64")))
    assert "is for linux-aarch64" in site.refusal()


def test_refuses_a_pack_for_another_releases_python(site: Site) -> None:
    message = site.refusal(target="debian-13")
    assert "was packed for nodes with Python 3.11, and debian-13-x86_64 has 3.13" in message


@pytest.mark.parametrize("version", ["2", 1, None])
def test_refuses_other_format_versions(site: Site, version: object) -> None:
    site.rewrite(lambda members: members.update(described(version=version)))
    assert f"format version {version!r}" in site.refusal()


@pytest.mark.parametrize(
    ("missing", "reason"),
    [("pixi-pack.json", "has no pixi-pack.json"), (PREFECT, "has no prefect")],
)
def test_refuses_an_incomplete_pack(site: Site, missing: str, reason: str) -> None:
    site.rewrite(lambda members: members.pop(missing))
    assert reason in site.refusal()


def test_refuses_what_is_no_archive(site: Site) -> None:
    site.pack.write_bytes(b"PK" + bytes(4096))
    assert "is no pack" in site.refusal()
    site.pack.write_bytes(b"#!/bin/sh\n" + bytes(4096))
    assert "is a script, and no pack" in site.refusal()
    site.pack.unlink()
    assert "cannot be read" in site.refusal()


def test_a_failure_while_writing_leaves_nothing_behind(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_file = Path.replace

    def full(self: Path, target: Path) -> Path:
        if "prefect" in self.name:
            raise OSError(28, "No space left on device")
        return replace_file(self, target)

    monkeypatch.setattr(Path, "replace", full)
    assert "No space left on device" in site.refusal()


def test_command_line_prints_one_line_or_one_sentence(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "import", str(site.pack), "--flow-dir", str(site.pack.parent), "--mirror", str(site.mirror),
        "--environments", str(site.environments), "--name", "demo", "--target", "debian-12-x86_64",
    ]  # fmt: skip
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["prefect_version"] == "3.8.8"
    assert printed["changed"] is True
    assert Path(printed["description"]).name == f"demo-{printed['digest'][:12]}.debian-12-x86_64.json"
    assert printed["description"] in printed["created"]
    site.pack.write_bytes(b"")
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith(f"error: {site.pack} is no plain tar archive")


def test_what_it_brings_is_in_the_mirrors_indexes(site: Site) -> None:
    imported = site.bring()
    page = (site.mirror / "pypi/simple/cowpy/index.html").read_text()
    assert parse_project(page) == {
        wheel.path[5:]: wheel.sha256 for wheel in imported.environment.wheels if wheel.name == "cowpy"
    }
    index = (site.mirror / "conda/linux-64/repodata.json").read_text()
    (python,) = imported.environment.conda
    assert parse_repodata(index) == {"python-3.11-system_0.tar.bz2": python.record}


def test_what_an_import_created_can_be_taken_back(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    small = site.environment({PREFECT: CONTENTS[PREFECT]})
    site.write(small)
    site.bring()
    before = site.state()
    site.write(site.environment())
    imported = site.bring()
    assert site.state() != before
    assert main(["forget", "--mirror", str(site.mirror), *map(str, imported.created)]) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": True}
    assert site.state() == before
    forget_pack(imported.created, site.mirror)
    assert site.state() == before


def test_an_index_that_cannot_be_read_leaves_nothing_behind(site: Site) -> None:
    (site.mirror / "conda/linux-64").mkdir(parents=True)
    (site.mirror / "conda/linux-64/repodata.json").write_text("{")
    before = site.state()
    with pytest.raises(ManifestError, match=r"repodata\.json is no index"):
        site.bring()
    assert site.state() == before


@pytest.fixture
def thin(site: Site) -> Site:
    """A site whose pack relies on Prefect, which the controller's mirror has, with the nodes' Python."""
    environment = site.environment()
    relied_on = {PREFECT, environment.conda[0].path}
    site.write(environment, relied_on)
    for path in relied_on:
        (site.mirror / path).parent.mkdir(parents=True)
        (site.mirror / path).write_bytes((site.directory / "source" / path).read_bytes())
    return site


def test_a_thin_pack_brings_what_the_mirror_lacks(thin: Site) -> None:
    assert [package.path for package in read_pack(thin.pack).relied_on] == [
        "conda/linux-64/python-3.11-system_0.tar.bz2",
        PREFECT,
    ]
    assert thin.bring(check=True).changed
    imported = thin.bring()
    assert [path.name for path in imported.created] == [
        "cowpy-1.1.5-py3-none-any.whl",
        imported.description.name,
    ]
    assert imported.environment.digest == thin.environment().digest
    described = Environment.from_file(imported.description)
    assert sorted(described.files, key=str) == sorted(thin.environment().files, key=str)
    assert not thin.bring().changed


def test_a_thin_pack_says_that_it_is_one(thin: Site) -> None:
    with tarfile.open(thin.pack) as archive:
        names = archive.getnames()
        contents = {name: archive.extractfile(name).read() for name in names}  # type: ignore[union-attr]
    assert names == [
        "channel/linux-64/repodata.json", "channel/noarch/repodata.json", "environment.yml", "pixi-pack.json",
        "pypi/cowpy-1.1.5-py3-none-any.whl", "relies-on.json",
    ]  # fmt: skip
    # pixi-unpack compares this with "1" and refuses anything else.
    assert json.loads(contents["pixi-pack.json"])["version"] == "1-thin"
    assert contents["environment.yml"].startswith(b"# A thin pack: it relies on 2 packages that the site has")
    relied_on = json.loads(contents["relies-on.json"])
    assert relied_on["base"] == "ab" * 32
    wheel = next(wheel for wheel in thin.environment().wheels if wheel.path == PREFECT)
    assert {"path": PREFECT, "sha256": wheel.sha256, "size": wheel.size} in relied_on["packages"]


def test_a_pack_that_leaves_nothing_out_is_no_thin_one(site: Site) -> None:
    plain = site.pack.read_bytes()
    site.write(site.environment(), {"pypi/unknown-1-py3-none-any.whl"})
    assert site.pack.read_bytes() == plain


def test_refuses_a_thin_pack_whose_packages_are_not_there(thin: Site) -> None:
    (thin.mirror / PREFECT).unlink()
    size = len(CONTENTS[PREFECT])
    message = thin.refusal()
    assert f"is thin and relies on 1 packages ({size} bytes) that the controller's mirror does not have" in message
    assert message.splitlines()[1:] == [f"  {PREFECT} ({size} bytes)"]


def test_refuses_a_thin_pack_when_the_mirror_has_another_file(thin: Site) -> None:
    (thin.mirror / PREFECT).write_bytes(b"another")
    assert f"The mirror has another {PREFECT}" in thin.refusal()


def test_what_a_thin_pack_relies_on_must_be_locked_too(thin: Site) -> None:
    (thin.pack.parent / "requirements.txt").write_text("")
    assert "whose hash is not in requirements.txt (cowpy-1.1.5-py3-none-any.whl, prefect-" in thin.refusal()


@pytest.mark.parametrize(
    "packages",
    [
        [{"path": "pypi/../../etc/passwd", "sha256": "0" * 64, "size": 1}],
        [{"path": "/etc/passwd", "sha256": "0" * 64, "size": 1}],
        [{"path": "conda/noarch/repodata.json", "sha256": "0" * 64, "size": 1}],
        [{"path": "pypi/x-1-py3-none-any.whl", "sha256": "no", "size": 1}],
        [{"path": "pypi/x-1-py3-none-any.whl"}],
        [{"path": "pypi/x-1.tar.gz", "sha256": "0" * 64, "size": 1}],
        {"path": 1},
    ],
)
def test_refuses_what_no_thin_pack_relies_on(thin: Site, packages: object) -> None:
    listed = json.dumps({"format_version": 1, "base": "ab" * 32, "packages": packages}).encode()
    thin.rewrite(lambda members: members.update({"relies-on.json": listed}))
    message = thin.refusal()
    assert "relies-on.json that cannot be read" in message or "is no wheel" in message


def test_refuses_a_thin_pack_that_holds_what_it_relies_on(thin: Site) -> None:
    thin.rewrite(lambda members: members.update({PREFECT: CONTENTS[PREFECT]}))
    assert f"holds {PREFECT} and relies on it as well" in thin.refusal()


def test_a_list_in_a_full_pack_is_refused(site: Site) -> None:
    listed = json.dumps({"format_version": 1, "base": "ab" * 32, "packages": []}).encode()
    site.rewrite(lambda members: members.update({"relies-on.json": listed}))
    assert "format version '1', and '1-thin' is read" in site.refusal()


@pytest.fixture
def executable(site: Site) -> Site:
    """A site whose pack is pixi-pack's executable; its pixi-unpack lists the archive."""
    lister = b"#!/bin/sh\ntar --list --file=$1\n"
    site.pack.write_bytes(make_executable(site.pack.read_bytes(), lister))
    return site


def test_reads_an_executable(executable: Site) -> None:
    listed = subprocess.run(["/bin/bash", executable.pack], capture_output=True, text=True, check=True).stdout
    assert PREFECT in listed.splitlines()
    imported = executable.bring()
    assert imported.environment.digest == executable.environment().digest
    for file in imported.environment.files:
        assert sha256_of_file(executable.mirror / file.path) == file.sha256


def test_reads_directories_and_an_archive_of_any_length(site: Site) -> None:
    """pixi-pack's archives have entries for directories, and end in two blocks."""

    def with_directories(members: dict[str, bytes | tarfile.TarInfo]) -> None:
        for name in ("channel", "channel/linux-64", "channel/noarch", "pypi"):
            directory = tarfile.TarInfo(name)
            directory.type = tarfile.DIRTYPE
            members[name] = directory

    site.rewrite(with_directories)
    content = site.pack.read_bytes().rstrip(b"\0")
    content += bytes(-len(content) % 512 + 1024)
    for blocks in range(3):  # base64 ends in none, one and two signs more
        site.pack.write_bytes(make_executable(content + bytes(512 * blocks), b""))
        assert len(read_pack(site.pack).files) == 3


def test_refuses_an_executable_without_an_archive(site: Site) -> None:
    site.pack.write_bytes(make_executable(b"", b"program"))
    assert "no base64 on one line" in site.refusal()


@pytest.mark.parametrize("kept", [0.01, 0.3, 0.7])
def test_refuses_a_truncated_executable(executable: Site, kept: float) -> None:
    content = executable.pack.read_bytes()
    executable.pack.write_bytes(content[: int(len(content) * kept)])
    assert "or is cut short" in executable.refusal()


@pytest.mark.parametrize("byte", [b"!", b"\n", b"="])
def test_refuses_an_executable_with_a_damaged_archive(executable: Site, byte: bytes) -> None:
    content = executable.pack.read_bytes()
    middle = content.index(b"@@\n\n") + 5000
    executable.pack.write_bytes(content[:middle] + byte + content[middle + 1 :])
    assert "no base64 on one line" in executable.refusal()


def described(*, platform: str = "linux-64", version: object = "1") -> dict[str, bytes]:
    return {"pixi-pack.json": json.dumps({"version": version, "platform": platform}).encode()}


def write_manifest(site: Site, environment: Environment) -> Path:
    files = [
        ManifestFile(f"mirror/{wheel.path}", wheel.sha256, wheel.size, "wheel", wheel.name, wheel.version)
        for wheel in environment.wheels
    ]
    path = site.directory / "manifest.json"
    path.write_text(Manifest("1", "test", "system", "test", (), (), tuple(files)).to_json())
    return path
