"""Nothing of this machine gets into a bundle or into what the builder prints: credentials, names, paths."""

from __future__ import annotations

import base64
import bz2
import gzip
import importlib.util
import os
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from debs import make_deb
from servers import FileServer, serve
from test_locks import conda, pypi, write_lock
from wheels import lock_line, make_wheel, simple_page

from airgap import cli, cli_build
from airgap.hashing import sha256_of_bytes
from airgap.network import Network, pip_network
from airgap.sources.ansible_collections import COLLECTIONS
from airgap.sources.apt_archives import SourceEntry

pytestmark = pytest.mark.process

# Where clients keep credentials: addresses, configuration files, variables. One has a character that addresses quote.
INDEX_PASSWORD = "s3cr3t@index-password"
EXTRA_PASSWORD = "s3cr3t-extra-index-password"
INDEX_TOKEN = "tk-1ndex-t0ken"
CHANNEL_TOKEN = "tk-ch4nnel-t0ken"
MIRROR_TOKEN = "tk-m1rror-t0ken"
NETRC_PASSWORD = "s3cr3t-netrc-password"
PIXI_TOKEN = "tk-p1xi-st0re-token"
PROXY_PASSWORD = "s3cr3t-proxy-password"
APT_PASSWORD = "s3cr3t-archive-password"
APT_PROXY_PASSWORD = "s3cr3t-apt-proxy-password"
FLOW_PASSWORD = "s3cr3t-requirements-password"
SECRETS = (
    INDEX_PASSWORD, EXTRA_PASSWORD, INDEX_TOKEN, CHANNEL_TOKEN, MIRROR_TOKEN, NETRC_PASSWORD, PIXI_TOKEN,
    PROXY_PASSWORD, APT_PASSWORD, APT_PROXY_PASSWORD, FLOW_PASSWORD,
)  # fmt: skip
LOGIN = "planted-login"
USER = "planted-user-name"
HOST = "planted-host-name"
CLOSED = "127.0.0.1:9"

WHEELS = {
    ("prefect", "3.9.1"): make_wheel("prefect", "3.9.1"),
    ("cowpy", "1.0"): make_wheel("cowpy", "1.0"),
    ("ansible_core", "2.19"): make_wheel("ansible_core", "2.19"),
    ("uv", "0.13"): make_wheel("uv", "0.13"),
    ("ansible", "12.0"): make_wheel(
        "ansible",
        "12.0",
        files={
            f"ansible_collections/{name.replace('.', '/')}/MANIFEST.json": '{"collection_info": {"version": "1.0"}}'
            for name in COLLECTIONS
        },
    ),
}
CONDA_PYTHON = b"a conda package, which the builder does not open"
PYTHON_FILE = "linux-64/python-3.11.9-h1_0.conda"

# apt's programs, as far as the builder uses them. They note how they were called.
APT = """#!{python}
import os, pathlib, re, sys
program, arguments = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
with open({log!r}, "a") as log:
    print(sys.argv, file=log)
if (program, arguments) == ("apt-config", ["dump"]):
    print('Acquire::http::Proxy "{proxy}";')
    sys.exit()
configuration = pathlib.Path(os.environ["APT_CONFIG"]).read_text()
etc = pathlib.Path(re.search('Dir::Etc "([^"]+)"', configuration)[1])
uri = re.search("URIs: (\\\\S+)", (etc / "sources.list.d/archive.sources").read_text())[1]
if "update" in arguments and os.environ.get("FAKE_APT_FAILS"):
    print("E: Failed to fetch", uri + "/dists/bookworm/InRelease  401  Unauthorized", file=sys.stderr)
    sys.exit(100)
if "--print-uris" in arguments:
    print("'" + uri + "/pool/rsync_1_all.deb' rsync_1_all.deb {size} SHA256:{sha256}")
elif program == "apt-cache":
    print("Package: rsync\\nVersion: 1\\nFilename: pool/rsync_1_all.deb\\nSize: {size}\\nSHA256: {sha256}\\n")
"""


@dataclass
class Machine:
    """A builder's machine, with all that must not leave it."""

    directory: Path
    server: FileServer
    capture: pytest.CaptureFixture[str]

    @property
    def checkout(self) -> Path:
        return self.directory / "checkout"

    @property
    def home(self) -> Path:
        return self.directory / f"home-of-{USER}"

    @property
    def output(self) -> Path:
        return self.directory / "work" / "pag-software-bundle.tar.gz"

    @property
    def address(self) -> str:
        return self.server.url.removeprefix("http://")

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run the command line, search all that it says, and return that."""
        assert cli.main([*arguments, "--target", "debian-12"]) == status
        captured = self.capture.readouterr()
        said = captured.out + captured.err
        assert not found(said.encode(), SECRETS), said
        assert LOGIN not in said
        return said

    def planted(self) -> list[str]:
        """Return all that must not be in a bundle."""
        host = socket.gethostname()
        # A name such as "vm" is in other words too.
        return [*SECRETS, LOGIN, USER, HOST, str(self.directory), self.address, *([host] if len(host) > 6 else [])]


def found(content: bytes, needles: tuple[str, ...] | list[str]) -> list[str]:
    """Return those of *needles* that *content* holds, plain, quoted or as a login in a header."""
    return [
        needle
        for needle in needles
        if any(
            form.encode() in content
            for form in (needle, quote(needle, safe=""), base64.b64encode(f"{LOGIN}:{needle}".encode()).decode())
        )
    ]


def contents(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every byte of the bundle in *archive*: by file, the tar with its headers, and the file itself with its."""
    raw = archive.read_bytes()
    unpacked = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    yield f"{archive.name}, packed", raw
    yield archive.name, unpacked
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile():
                stream = tar.extractfile(member)
                assert stream is not None
                content = stream.read()
                # The builder's own package: the node's Python.
                yield member.name, bz2.decompress(content) if member.name.endswith(".tar.bz2") else content


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Machine]:
    with serve() as server:
        made = Machine(tmp_path, server, capfd)
        _make_checkout(made)
        _make_server(made)
        _make_clients(made, monkeypatch)
        (tmp_path / "work").mkdir()
        monkeypatch.chdir(tmp_path / "work")
        monkeypatch.setattr(cli_build, "_ROOT", made.checkout)
        # Nobody gets better by waiting here.
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        # Asking pip itself takes a second; one test does.
        indexes = f"http://{LOGIN}:{EXTRA_PASSWORD}@{CLOSED}/simple"
        monkeypatch.setattr(
            cli_build, "pip_network", lambda _cache: Network((os.environ["PIP_INDEX_URL"], indexes), timeout=5.0)
        )
        yield made
        _assert_kept_private(made)


def _make_checkout(machine: Machine) -> None:
    root = machine.checkout
    for name in (
        "README.md",
        "install-pag-controller.sh",
        "ansible/main.yml",
        "airgap/__init__.py",
        "flows/demo/main.py",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    flow = root / "flows" / "demo"
    (root / "requirements").mkdir()
    for path, names in {
        "requirements/prefect.txt": ["prefect"],
        "requirements/controller.txt": ["ansible_core"],
        "requirements/toolkit.txt": ["uv"],
        "requirements/collections.txt": ["ansible"],
        "flows/demo/requirements.txt": ["prefect", "cowpy"],
    }.items():
        locked = [(name, version, content) for (name, version), content in WHEELS.items() if name in names]
        lines = (lock_line(name.replace("_", "-"), version, content) for name, version, content in locked)
        (root / path).write_text("".join(lines))
    (flow / "main.py").write_text("from prefect import flow\n\n\n@flow\ndef my_workflow():\n    pass\n")
    (root / "requirements" / "apt.txt").write_text("rsync\n")
    # Locks are made by authors whose channels want a token; the flow's travels.
    channel = f"http://{LOGIN}:{FLOW_PASSWORD}@{CLOSED}/t/{CHANNEL_TOKEN}/forge"
    package = conda(f"{channel}/{PYTHON_FILE}").replace("ab" * 32, sha256_of_bytes(CONDA_PYTHON))
    package = package.replace("size: 10", f"size: {len(CONDA_PYTHON)}")
    port = machine.address.rpartition(":")[2]
    prefect = pypi(
        f"http://{LOGIN}:{FLOW_PASSWORD}@localhost:{port}/t/{INDEX_TOKEN}/files/prefect-3.9.1-py3-none-any.whl",
        sha256=sha256_of_bytes(WHEELS["prefect", "3.9.1"]),
        name="prefect",
        version="3.9.1",
    )
    for directory in (root, flow):
        write_lock(directory, package, prefect, channel=channel)
    (flow / "requirements.in").write_text(
        f"--extra-index-url https://{LOGIN}:{FLOW_PASSWORD}@index.example/t/{INDEX_TOKEN}/simple?token={PIXI_TOKEN}\ncowpy\n"
    )


def _make_server(machine: Machine) -> None:
    files = machine.server.files
    for (name, version), content in WHEELS.items():
        file_name = f"{name}-{version}-py3-none-any.whl"
        files[f"/t/{INDEX_TOKEN}/files/{file_name}"] = content
        files[f"/t/{INDEX_TOKEN}/simple/{name.replace('_', '-')}/"] = simple_page({file_name: content})
    files[f"/t/{MIRROR_TOKEN}/forge/{PYTHON_FILE}"] = CONDA_PYTHON
    files[f"/t/{MIRROR_TOKEN}/forge/noarch/repodata.json"] = b"{}"
    licence = "Format: https://policy.example/packaging-manuals/copyright-format/1.0/\nLicense: ISC\n"
    deb = make_deb(machine.directory, "rsync", files={"usr/share/doc/rsync/copyright": licence})
    files["/debian/pool/rsync_1_all.deb"] = deb.read_bytes()


def _make_clients(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configure pip, pixi, apt, proxies and the shell as on a machine that people work on."""
    home, address = machine.home, machine.address
    (home / ".pixi").mkdir(parents=True)
    (home / ".netrc").write_text(f"machine 127.0.0.1 login {LOGIN} password {NETRC_PASSWORD}\n")
    (home / ".netrc").chmod(0o600)
    mirror = f"http://{address}/t/{MIRROR_TOKEN}/forge"
    (home / ".pixi" / "config.toml").write_text(
        f'[mirrors]\n"http://{LOGIN}:{FLOW_PASSWORD}@{CLOSED}/t/{CHANNEL_TOKEN}/forge" = ["{mirror}"]\n'
    )
    (home / "pixi.json").write_text(f'{{"elsewhere.example": {{"BearerToken": "{PIXI_TOKEN}"}}}}')
    (home / "pip.conf").write_text(
        f"[global]\nextra-index-url = http://{LOGIN}:{EXTRA_PASSWORD}@{CLOSED}/simple\ntimeout = 5\n"
    )
    content = machine.server.files["/debian/pool/rsync_1_all.deb"]
    programs = machine.directory / "bin"
    programs.mkdir()
    for name in ("apt-get", "apt-cache", "apt-config"):
        (programs / name).write_text(
            APT.format(
                python=sys.executable,
                log=str(machine.directory / "apt.log"),
                proxy=f"http://{LOGIN}:{APT_PROXY_PASSWORD}@{address}",
                size=len(content),
                sha256=sha256_of_bytes(content),
            )
        )
        (programs / name).chmod(0o755)
    keyrings = machine.directory / "keyrings"
    keyrings.mkdir()
    (keyrings / "debian-archive-keyring.gpg").touch()
    monkeypatch.setattr("airgap.sources.apt.KEYRINGS", keyrings)
    entry = SourceEntry(f"http://{LOGIN}:{APT_PASSWORD}@{address}/debian", "bookworm", ("main",))
    monkeypatch.setattr("airgap.sources.apt.host_entries", lambda: [entry])
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("PIP_", "XDG_", "PIXI_")):
            monkeypatch.delenv(name)
    proxy = f"http://{LOGIN}:{PROXY_PASSWORD}@{address}"
    variables = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(home),
        "USER": USER,
        "LOGNAME": USER,
        "HOSTNAME": HOST,
        "PIP_CONFIG_FILE": str(home / "pip.conf"),
        "PIP_INDEX_URL": f"http://{LOGIN}:{quote(INDEX_PASSWORD, safe='')}@{address}/t/{INDEX_TOKEN}/simple",
        "RATTLER_AUTH_FILE": str(home / "pixi.json"),
        "http_proxy": proxy,
        "HTTPS_PROXY": proxy,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def _assert_kept_private(machine: Machine) -> None:
    """What the cache holds of credentials, and what programs are called with, is for this user only."""
    cache = machine.home / ".cache" / "pag"
    for path in cache.rglob("*"):
        if path.is_file() and found(path.read_bytes(), SECRETS):
            modes = [place.stat().st_mode & 0o077 for place in (path, *path.parents) if place.is_relative_to(cache)]
            assert 0 in modes, f"{path} can be read by everybody"
    log = machine.directory / "apt.log"
    assert not log.exists() or not found(log.read_bytes(), SECRETS)


def assert_clean(machine: Machine, archive: Path) -> None:
    names = []
    for name, content in contents(archive):
        assert not found(content, machine.planted()), f"{name} holds {found(content, machine.planted())}"
        names.append(name)
    assert len(names) > 5


def sent(server: FileServer) -> bytes:
    """Return all that was asked of the server, with the headers."""
    return "\n".join(f"{path} {headers}" for path, headers in server.requests).encode()


@pytest.mark.parametrize("python", ["system", "conda", "auto"])
def test_a_bundle(machine: Machine, monkeypatch: pytest.MonkeyPatch, python: str) -> None:
    if python == "system":
        monkeypatch.setattr(cli_build, "pip_network", pip_network)
    assert "Dry run" in machine.run("--python", python, "--dry-run")
    machine.run("--python", python)
    # All of it was needed: a search for what was never used finds nothing.
    used = {INDEX_PASSWORD, INDEX_TOKEN, APT_PASSWORD} | ({MIRROR_TOKEN} if python != "system" else set())
    assert used <= set(found(sent(machine.server), SECRETS))
    assert_clean(machine, machine.output)
    assert cli.main(["inspect", "--licences", "--json", str(machine.output)]) == 0
    assert not found(machine.capture.readouterr().out.encode(), machine.planted())


def test_a_flows_locks_travel_without_what_their_author_left_in_them(machine: Machine) -> None:
    machine.run("--python", "conda")
    files = dict(contents(machine.output))
    lock = files["pag-software-bundle/flows/demo/pixi.lock"].decode()
    assert f"- url: http://{CLOSED}/forge/" in lock
    assert f"- conda: http://{CLOSED}/forge/{PYTHON_FILE}" in lock
    requirements = files["pag-software-bundle/flows/demo/requirements.in"].decode()
    assert requirements == "--extra-index-url https://index.example/simple\ncowpy\n"


@pytest.mark.parametrize("python", ["system", "conda"])
def test_a_packed_flow(machine: Machine, python: str) -> None:
    flow = machine.checkout / "flows" / "demo"
    machine.run("pack-flow", str(flow), "--python", python)
    assert_clean(machine, flow / "packed-env.tar")


def test_an_index_that_refuses(machine: Machine) -> None:
    machine.server.refused = ("/t/",)
    said = machine.run("--python", "system", status=1)
    assert "401" in said


def test_a_channel_that_refuses(machine: Machine) -> None:
    machine.server.refused = (f"/t/{MIRROR_TOKEN}",)
    assert "system" in machine.run("--python", "auto")
    assert_clean(machine, machine.output)
    assert "error: " in machine.run("--python", "conda", status=1)


def test_a_file_that_is_gone(machine: Machine) -> None:
    for path in [path for path in machine.server.files if path.endswith((".whl", ".conda", ".deb"))]:
        del machine.server.files[path]
    for python in ("system", "conda"):
        assert "could not be fetched" in machine.run("--python", python, status=1)


def test_a_file_that_is_another(machine: Machine) -> None:
    for path in [path for path in machine.server.files if path.endswith(".whl")]:
        machine.server.files[path] = b"<html>a captive portal's page</html>"
    assert "error: " in machine.run("--python", "system", status=1)


def test_no_connection(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://{LOGIN}:{EXTRA_PASSWORD}@{CLOSED}/t/{INDEX_TOKEN}/simple")
    assert "cannot be reached" in machine.run("--python", "system", status=1)


def test_a_proxy_that_is_not_there(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://{LOGIN}:{PROXY_PASSWORD}@{CLOSED}")
    assert "error: " in machine.run("--python", "system", status=1)


def test_an_archive_that_refuses(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_APT_FAILS", "1")
    assert "401" in machine.run("--python", "system", status=1)


def test_a_lock_that_cannot_be_read(machine: Machine) -> None:
    lock = machine.checkout / "pixi.lock"
    lock.write_text(lock.read_text().replace("version: 6", "version: 6\nbroken: [").replace("- conda:", "- conda :"))
    assert "cannot be read" in machine.run("--python", "conda", status=1)


def test_the_builders_own_packages(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = Path(cli.__file__).resolve().parent.parent
    spec = importlib.util.spec_from_file_location("build_bundle", root / "build-bundle.py")
    assert spec is not None
    assert spec.loader is not None
    entry = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(entry)

    def run(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        said = f"ERROR: HTTP error 401 while getting http://{LOGIN}:{INDEX_PASSWORD}@a.example/t/{INDEX_TOKEN}/x.whl\n"
        return subprocess.CompletedProcess(command, int("pip" in command), said)

    monkeypatch.setattr(subprocess, "run", run)
    assert entry.main([]) == 1
    error = capfd.readouterr().err
    assert "401 while getting http://a.example" in error
    assert not found(error.encode(), SECRETS)
