from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from servers import FileServer, serve
from test_locks import write_lock
from wheels import lock_line, make_wheel, simple_page

from airgap import cli
from airgap.delta import Base
from airgap.errors import AirgapError
from airgap.flow_pack import PackOptions, WrittenPack, pack_flow
from airgap.hashing import sha256_of_bytes
from airgap.have import Have, HavePackage
from airgap.network import Network
from airgap.pack import import_pack, read_pack
from airgap.plan import BuildOptions
from airgap.progress import Progress
from airgap.targets import parse_target

MAIN = "from prefect import flow\n\n@flow\ndef my_workflow():\n    pass\n"
WHEELS = {
    "prefect-3.8.8-py3-none-any.whl": make_wheel("prefect", "3.8.8"),
    "cowpy-1.0-py3-none-any.whl": make_wheel("cowpy", "1.0"),
    "fast-1.0-cp311-cp311-manylinux_2_17_x86_64.whl": make_wheel("fast", "1.0", metadata="Summary: 3.11\n"),
    "fast-1.0-cp313-cp313-manylinux_2_17_x86_64.whl": make_wheel("fast", "1.0", metadata="Summary: 3.13\n"),
}
BOTH = tuple(parse_target(name) for name in ("debian-12", "debian-13"))


@dataclass
class Author:
    """An author's machine: a flow directory, and an index."""

    flow: Path
    server: FileServer
    options: BuildOptions

    def pack(self, asked: PackOptions | None = None, **changes: Any) -> list[WrittenPack]:
        options = replace(self.options, **changes)
        network = Network(indexes=(f"{self.server.url}/simple",), timeout=5)
        packs, _choice = pack_flow(options, asked or PackOptions(), network, Progress(), lambda choice: None)
        return packs

    def refusal(self, asked: PackOptions | None = None, **changes: Any) -> str:
        """Return why the flow is refused, after a look that nothing was fetched or written."""
        before = {path: path.read_bytes() for path in self.flow.rglob("*") if path.is_file()}
        with pytest.raises(AirgapError) as caught:
            self.pack(asked, **changes)
        assert {path: path.read_bytes() for path in self.flow.rglob("*") if path.is_file()} == before
        assert self.fetched() == []
        return str(caught.value)

    def fetched(self) -> list[str]:
        return [path for path, _ in self.server.requests if path.endswith((".whl", ".conda"))]


@pytest.fixture
def author(tmp_path: Path) -> Iterator[Author]:
    flow = tmp_path / "demo"
    flow.mkdir()
    (flow / "main.py").write_text(MAIN)
    lock = [
        lock_line("prefect", "3.8.8", WHEELS["prefect-3.8.8-py3-none-any.whl"]),
        lock_line("cowpy", "1.0", WHEELS["cowpy-1.0-py3-none-any.whl"]),
        lock_line("fast", "1.0", *(content for name, content in WHEELS.items() if name.startswith("fast"))),
    ]
    (flow / "requirements.txt").write_text("".join(lock))
    (flow / "requirements.in").write_text("prefect\ncowpy\nfast\n")
    files = {f"/files/{name}": content for name, content in WHEELS.items()}
    for project in ("prefect", "cowpy", "fast"):
        files[f"/simple/{project}/"] = simple_page({n: c for n, c in WHEELS.items() if n.startswith(project)})
    with serve(files=files) as server:
        options = BuildOptions(
            root=tmp_path,
            cache=tmp_path / "cache",
            output=flow / "packed-env.tar",
            targets=BOTH[:1],
            python="system",
            flows=(flow,),
        )
        yield Author(flow, server, options)


def site(*names: str, prefect_version: str | None = "3.8.8", targets: tuple[str, ...] = ()) -> Base:
    packages = [HavePackage(f"mirror/pypi/{name}", sha256_of_bytes(WHEELS[name]), len(WHEELS[name])) for name in names]
    targets = targets or tuple(target.name for target in BOTH)
    return Base(Have("tests", prefect_version, targets, tuple(packages), frozenset()), "ab" * 32)


def names_in(pack: Path) -> list[str]:
    with tarfile.open(pack) as tar:
        return tar.getnames()


def test_a_flow_is_packed_for_one_target(author: Author) -> None:
    (pack,) = author.pack()
    assert pack.path == author.flow / "packed-env.tar"
    assert sorted(file.name for file in pack.environment.wheels) == ["cowpy", "fast", "prefect"]
    assert pack.left_out == ()
    names = names_in(pack.path)
    assert "pypi/fast-1.0-cp311-cp311-manylinux_2_17_x86_64.whl" in names
    assert "pixi-pack.json" in names


def test_each_of_several_targets_gets_a_file_and_shared_downloads_are_fetched_once(author: Author) -> None:
    packs = author.pack(targets=BOTH)
    assert [pack.path.name for pack in packs] == [
        "packed-env.debian-12-x86_64.tar",
        "packed-env.debian-13-x86_64.tar",
    ]
    assert not (author.flow / "packed-env.tar").exists()
    assert sorted(author.fetched()) == sorted(f"/files/{name}" for name in WHEELS)
    for pack, tag, target in zip(packs, ("cp311", "cp313"), BOTH, strict=True):
        assert f"pypi/fast-1.0-{tag}-{tag}-manylinux_2_17_x86_64.whl" in names_in(pack.path)
        root = author.flow.parent / target.name
        import_pack(pack.path, author.flow, root / "mirror", root / "environments", "demo", target)


def test_a_pack_that_would_not_be_used_is_refused(author: Author) -> None:
    author.pack(targets=BOTH)
    author.server.requests.clear()
    assert "packed-env.debian-12-x86_64.tar is there from an earlier packing" in author.refusal()


def test_a_thin_pack_leaves_out_what_the_site_has(author: Author, tmp_path: Path) -> None:
    has = "prefect-3.8.8-py3-none-any.whl"
    (pack,) = author.pack(base=site(has))
    assert pack.left_out == (f"pypi/{has}",)
    assert f"/files/{has}" not in author.fetched()
    contents = read_pack(pack.path)
    (relied_on,) = contents.relied_on
    assert (relied_on.path, relied_on.size) == (f"pypi/{has}", len(WHEELS[has]))
    (tmp_path / "mirror/pypi").mkdir(parents=True)
    (tmp_path / "mirror/pypi" / has).write_bytes(WHEELS[has])
    imported = import_pack(pack.path, author.flow, tmp_path / "mirror", tmp_path / "environments", "demo", BOTH[0])
    (full,) = author.pack()
    assert imported.environment.digest == full.environment.digest == pack.environment.digest


def test_another_file_of_the_same_name_on_the_site_is_not_relied_on(author: Author) -> None:
    has = "prefect-3.8.8-py3-none-any.whl"
    other = HavePackage(f"mirror/pypi/{has}", "cd" * 32, 1)
    state = Base(Have("tests", None, ("debian-12-x86_64",), (other,), frozenset()), "ab" * 32)
    (pack,) = author.pack(base=state)
    assert pack.left_out == ()
    assert f"pypi/{has}" in names_in(pack.path)


def test_refuses_a_prefect_newer_than_the_clusters(author: Author) -> None:
    reason = "has Prefect 3.8.8, which is newer than the cluster's 3.8.7"
    assert reason in author.refusal(PackOptions(prefect_version="3.8.7"))
    assert reason in author.refusal(base=site(prefect_version="3.8.7"))
    author.pack(PackOptions(prefect_version="3.8.8"), base=site(prefect_version="3.8.7"))


def test_refuses_an_entrypoint_that_is_missing(author: Author) -> None:
    asked = PackOptions(entrypoint="main.py:other")
    assert "has no function other" in author.refusal(asked)
    assert author.server.requests == []
    author.pack(PackOptions(entrypoint="main.py:my_workflow"))


def test_refuses_targets_that_the_site_has_not(author: Author) -> None:
    state = site(targets=("debian-12-x86_64",))
    assert "no nodes for debian-13-x86_64" in author.refusal(base=state, targets=BOTH)


def test_refuses_a_lock_that_does_not_satisfy_its_manifest(author: Author) -> None:
    (author.flow / "requirements.in").write_text("prefect\nnumpy\n")
    assert "requirements.txt does not satisfy requirements.in (numpy is not locked)" in author.refusal()


def test_refuses_a_flow_without_prefect(author: Author) -> None:
    (author.flow / "requirements.in").unlink()
    (author.flow / "requirements.txt").write_text(lock_line("cowpy", "1.0", WHEELS["cowpy-1.0-py3-none-any.whl"]))
    assert "has no Prefect" in author.refusal()


@pytest.fixture
def conda_flow(author: Author) -> Path:
    """The flow with conda packages, which are in a directory."""
    channel = author.flow.parent / "channel"
    packages = []
    for subdir, name in (("linux-64", "python-3.12.11-0"), ("noarch", "prefect-3.8.8-0")):
        (channel / subdir).mkdir(parents=True)
        content = f"the package {name}".encode()
        (channel / subdir / f"{name}.conda").write_bytes(content)
        (channel / subdir / "repodata.json").write_text("{}")
        packages.append(
            f"- conda: https://channel.invalid/c/{subdir}/{name}.conda\n  sha256: {sha256_of_bytes(content)}\n"
            f"  md5: {'cd' * 16}\n  depends: []\n  size: {len(content)}\n"
        )
    write_lock(author.flow, *packages, channel="https://channel.invalid/c")
    (author.flow / "pixi.toml").write_text(
        '[workspace]\nname = "demo"\nchannels = ["c"]\nplatforms = ["linux-64"]\n\n'
        '[dependencies]\npython = "3.12.*"\nprefect = "3.8.*"\n'
    )
    return channel


def test_conda_packages_are_packed(author: Author, conda_flow: Path) -> None:
    (pack,) = author.pack(python="conda", channels={"https://channel.invalid/c": (conda_flow.as_uri(),)})
    assert pack.environment.interpreter == "conda"
    assert names_in(pack.path) == [
        "channel/linux-64/python-3.12.11-0.conda", "channel/linux-64/repodata.json",
        "channel/noarch/prefect-3.8.8-0.conda", "channel/noarch/repodata.json", "environment.yml", "pixi-pack.json",
    ]  # fmt: skip


@pytest.mark.usefixtures("conda_flow")
def test_refuses_a_conda_lock_that_does_not_satisfy_its_manifest(author: Author) -> None:
    manifest = author.flow / "pixi.toml"
    text = manifest.read_text()
    manifest.write_text(text.replace("3.12.*", "3.13.*"))
    assert "pixi.lock does not satisfy pixi.toml (python 3.12.11 is locked" in author.refusal(python="conda")
    manifest.write_text(text.replace("linux-64", "osx-arm64"))
    assert "is for osx-arm64, and debian-12-x86_64 is linux-64" in author.refusal(python="conda")
    assert author.server.requests == []


@pytest.fixture
def command(author: Author) -> list[str]:
    """The command line that packs the author's flow."""
    options = ["--python", "system", "--cache", str(author.options.cache), "--index", f"{author.server.url}/simple"]
    return ["pack-flow", str(author.flow), *options]


def have_json(path: Path, state: Base) -> Path:
    path.write_text(state.have.to_json())
    return path


def test_the_command_says_what_it_wrote(
    author: Author, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    have = have_json(tmp_path / "have.json", site("prefect-3.8.8-py3-none-any.whl"))
    assert cli.main([*command, "--since", str(have), "--entrypoint", "main.py:my_workflow"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # Without --target, those of the site.
    assert [Path(line.partition(":")[0]).name for line in lines[1:3]] == [
        "packed-env.debian-12-x86_64.tar",
        "packed-env.debian-13-x86_64.tar",
    ]
    assert "of which 1 are taken from the site's mirror: a thin pack, which pixi-unpack cannot open." in lines[1]
    with tarfile.open(author.flow / "packed-env.debian-12-x86_64.tar") as tar:
        relied_on = json.load(tar.extractfile("relies-on.json"))  # type: ignore[arg-type]
    assert relied_on["base"] == sha256_of_bytes(have.read_bytes())


def test_the_command_refuses_in_one_sentence(
    author: Author, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for extra, reason in (
        (["--prefect-version", "3.8.7", "--target", "debian-12"], "is newer than the cluster's 3.8.7"),
        (["--have-signers", str(tmp_path / "signers"), "--target", "debian-12"], "name that with --since"),
        (["--since", str(tmp_path / "have.json")], "have.json cannot be read"),
        (["--entrypoint", "main.py:other", "--target", "debian-12"], "has no function other"),
    ):
        assert cli.main([*command, *extra]) == 1
        (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert reason in sentence
    assert not list(author.flow.glob("*.tar"))


def test_the_command_checks_who_signed(
    author: Author, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    have = have_json(tmp_path / "have.json", site(targets=("debian-12-x86_64",)))
    keygen = ["ssh-keygen", "-q"]
    subprocess.run([*keygen, "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    signers = tmp_path / "signers"
    signers.write_text(f"site {(tmp_path / 'key.pub').read_text()}")
    command += ["--since", str(have), "--have-signers", str(signers)]
    assert cli.main(command) == 1
    assert "have.json" in capsys.readouterr().err
    subprocess.run([*keygen, "-Y", "sign", "-n", "pag-have", "-f", tmp_path / "key", have], check=True)
    assert cli.main(command) == 0
    have.write_text(have.read_text().replace("3.8.8", "3.9.9"))
    assert cli.main(command) == 1
    assert "error: " in capsys.readouterr().err
    assert [path.name for path in author.flow.glob("*.tar")] == ["packed-env.tar"]
