"""Installed environments and Debian packages, held against what the controller worked out."""

from __future__ import annotations

import hashlib
import importlib.util
import marshal
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from audited import describe
from installables import Node, this_hosts_target

from airgap.audit import Machine, expected
from airgap.install import install
from ansible.module_utils.audit_dpkg import audit_packages
from ansible.module_utils.audit_environment import Auditor

TARGET = this_hosts_target()
pytestmark = pytest.mark.skipif(TARGET is None, reason="the host is no target, or lacks its own python3")


class Site:
    """A controller and a node in one directory, with an environment that has everything installers change."""

    def __init__(self, directory: Path) -> None:
        assert TARGET is not None
        self.node = Node(directory, TARGET)
        self.root = directory / "root"
        self.root.mkdir()
        self.work = directory / "work"
        self.work.mkdir()
        description = describe(self.node, root=self.root)
        before = os.umask(0o022)
        try:
            installed = install(description, self.root / "mirror", self.node.root, self.node.cache, link=self.node.link)
        finally:
            os.umask(before)
        self.path = Path(installed.path)
        self.prefix = self.path / "env"
        self.library = next(self.prefix.glob("lib/python*/site-packages"))

    def audit(self) -> dict[str, str]:
        """Return what was found, by path below the environment where it is there."""
        machine = Machine(self.node.target.name, self.node.root, self.node.link, "prefect")
        auditor = Auditor(expected(self.root, machine, self.work))
        auditor.audit_environments(self.node.root)
        auditor.audit_links()
        return {
            str(Path(finding.path).relative_to(self.path))
            if finding.path.startswith(str(self.path))
            else finding.path: finding.what
            for finding in auditor.findings
        }

    def below(self, path: Path) -> str:
        return str(path.relative_to(self.path))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture
def site(installed: Site) -> Iterator[Site]:
    """The site; what a test changed in the environment is as it was afterwards."""
    kept = installed.node.directory / "kept"
    shutil.copytree(installed.path, kept, symlinks=True, copy_function=shutil.copy2)
    yield installed
    shutil.rmtree(installed.path)
    kept.rename(installed.path)


def test_what_was_just_installed_is_as_it_should_be(site: Site) -> None:
    assert site.audit() == {}


def test_programs_whose_first_line_is_too_long_for_linux_are_as_they_should_be(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 25)
    directory.mkdir()
    site = Site(directory)
    assert (site.prefix / "bin/pure").read_text().startswith("#!/bin/sh\n")
    assert site.audit() == {}


def touch_again(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file's content, and keep its times."""
    status = path.stat()
    path.write_bytes(change(path.read_bytes()))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "name",
    [
        "activate.sh",
        "run",
        ".complete",
        "env/bin/native",
        "env/bin/pure",
        "env/bin/pure-script",
        "env/bin/Gamma",
        "env/bin/gamma-script",
        "env/bin/gamma-shell",
        "env/lib/libnative.so",
        "env/share/native.txt",
        "env/share/gamma/data.txt",
        "env/pyvenv.cfg",
        "LIBRARY/pure/__init__.py",
        "LIBRARY/gamma/__init__.py",
        "LIBRARY/gamma_pure.py",
        "LIBRARY/Gamma_Ray-1.0.dist-info/RECORD",
        "LIBRARY/Gamma_Ray-1.0.dist-info/INSTALLER",
        "LIBRARY/Gamma_Ray-1.0.dist-info/METADATA",
        "LIBRARY/Gamma_Ray-1.0.dist-info/uv_cache.json",
    ],
)
def test_a_changed_file_is_named(site: Site, name: str) -> None:
    path = site.path / name.replace("LIBRARY", site.below(site.library))
    if name == ".complete":
        path.write_text(path.read_text() + "x")
    else:
        touch_again(path, lambda content: content[:-1] + b"#")
    assert site.audit() == {site.below(path): "changed"}


@pytest.mark.parametrize("name", ["env/bin/python", "env/lib/libnative.so.1"])
def test_a_link_that_leads_elsewhere_is_named(site: Site, name: str) -> None:
    path = site.path / name
    path.unlink()
    path.symlink_to("/bin/true")
    assert site.audit() == {name: "changed"}


def test_a_file_in_place_of_a_link_is_named(site: Site) -> None:
    path = site.prefix / "bin/python"
    path.unlink()
    shutil.copy("/bin/true", path)
    assert site.audit() == {"env/bin/python": "changed"}


def test_a_record_of_another_package_is_named(site: Site) -> None:
    path = site.prefix / "conda-meta/native-1.0-0.json"
    touch_again(path, lambda content: content.replace(b"share/native.txt", b"share/native.bin"))
    assert site.audit() == {site.below(path): "changed"}


def test_a_missing_file_is_named_alone(site: Site) -> None:
    path = site.library / "gamma/values.py"
    path.unlink()
    assert site.audit() == {site.below(path): "missing"}


@pytest.mark.parametrize(
    "name", ["sitecustomize.py", "planted.pth", "gamma/extra.py", "gamma/__pycache__/extra.cpython-311.pyc", "gamma.so"]
)
def test_what_does_not_belong_is_named(site: Site, name: str) -> None:
    path = site.library / name
    path.write_text("import os\n")
    assert site.audit() == {site.below(path): "unexpected"}


def compiled(source: Path) -> Path:
    return Path(importlib.util.cache_from_source(str(source)))


def test_compiled_code_that_is_not_of_its_source_is_named(site: Site) -> None:
    path = compiled(site.library / "gamma/__init__.py")
    planted = marshal.dumps(compile("def main():\n    return 2\n", "gamma/__init__.py", "exec"))
    touch_again(path, lambda content: content[:16] + planted)
    assert site.audit() == {site.below(path): "changed"}


def test_constants_are_compared_with_their_types_and_signs(site: Site) -> None:
    source = site.library / "gamma/values.py"
    path = compiled(source)
    for old, new in (("1, 1.0, True", "1.0, 1.0, True"), ("-0.0", "+0.0")):
        text = source.read_text()
        assert old in text
        planted = marshal.dumps(compile(text.replace(old, new), str(source), "exec"))
        touch_again(path, lambda content, planted=planted: content[:16] + planted)  # type: ignore[misc]
        assert site.audit() == {site.below(path): "changed"}


def test_compiled_code_that_claims_to_need_no_source_is_named(site: Site) -> None:
    path = compiled(site.library / "gamma/__init__.py")
    # Flags of PEP 552: Python would not look at the source's time.
    touch_again(path, lambda content: content[:4] + b"\1\0\0\0" + content[8:])
    assert site.audit() == {site.below(path): "changed"}


def test_more_than_compiled_code_is_named(site: Site) -> None:
    path = compiled(site.library / "gamma/__init__.py")
    touch_again(path, lambda content: content + b"x")
    assert site.audit() == {site.below(path): "changed"}


def test_compiled_code_of_another_time_is_named(site: Site) -> None:
    path = compiled(site.library / "gamma/__init__.py")
    touch_again(path, lambda content: content[:8] + b"\0\0\0\0" + content[12:])
    assert site.audit() == {site.below(path): "changed"}


def test_missing_compiled_code_is_named(site: Site) -> None:
    path = compiled(site.library / "gamma/__init__.py")
    path.unlink()
    assert site.audit() == {site.below(path): "missing"}


def test_code_that_roots_own_run_compiled_is_no_finding(site: Site) -> None:
    source = site.library / "gamma/__init__.py"
    import py_compile

    py_compile.compile(str(source), optimize=1)
    assert site.audit() == {}


def test_a_file_that_others_may_write_is_named(site: Site) -> None:
    path = site.prefix / "share/native.txt"
    path.chmod(0o666)
    assert site.audit() == {"env/share/native.txt": "changed"}


def test_an_environment_that_nobody_described_is_named(site: Site) -> None:
    (site.node.root / "planted-0123456789ab").mkdir()
    try:
        assert site.audit() == {str(site.node.root / "planted-0123456789ab"): "unexpected"}
    finally:
        (site.node.root / "planted-0123456789ab").rmdir()


def test_a_link_to_something_else_is_named(site: Site) -> None:
    site.node.link.unlink()
    site.node.link.symlink_to("/usr")
    try:
        assert site.audit() == {str(site.node.link): "changed"}
    finally:
        site.node.link.unlink()
        site.node.link.symlink_to(site.path)


def test_an_environment_whose_packages_are_gone_is_not_passed(site: Site) -> None:
    wheel = next(site.root.glob("mirror/pypi/*.whl"))
    wheel.rename(site.root / "away.whl")
    try:
        assert site.audit() == {".": "unaudited"}
    finally:
        (site.root / "away.whl").rename(wheel)


def test_deployed_code(tmp_path: Path) -> None:
    root = tmp_path / "flows"
    text = "pass\n"
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    digest = hashlib.sha256(f"{sha256}  main.py\n".encode()).hexdigest()
    for flow in ("known", "old", "foreign"):
        directory = root / flow / digest[:12]
        directory.mkdir(parents=True)
        (directory / "main.py").write_text(text if flow != "foreign" else "import os\n")
        (directory / ".complete").write_text(f"{digest}\n")
    marker = hashlib.sha256(f"{digest}\n".encode()).hexdigest()
    document = {"flows": {f"known/{digest[:12]}": {"main.py": sha256, ".complete": marker}}}

    def audit() -> dict[str, str]:
        auditor = Auditor(document)
        auditor.audit_flows(root)
        return {str(Path(finding.path).relative_to(root)): finding.what for finding in auditor.findings}

    assert audit() == {f"foreign/{digest[:12]}": "unexpected"}
    (root / "known" / digest[:12] / "main.py").write_text("import os\n")
    (root / "known" / digest[:12] / "more.py").write_text("import os\n")
    assert audit() == {
        f"foreign/{digest[:12]}": "unexpected",
        f"known/{digest[:12]}/main.py": "changed",
        f"known/{digest[:12]}/more.py": "unexpected",
    }


def test_versions_that_are_not_on_record_hold_what_their_name_says(tmp_path: Path) -> None:
    sha256 = hashlib.sha256(b"pass\n").hexdigest()
    digest = hashlib.sha256(f"{sha256}  main.py\n".encode()).hexdigest()
    marker = f"code {digest}\nenvironment debian-12-x86_64 {'a' * 64}\n"
    version = hashlib.sha256(marker.encode()).hexdigest()[:12]
    links = {"whole": "flow-" + "a" * 12, "led-away": "flow-" + "b" * 12, "edited": "flow-" + "a" * 12}
    for flow, environment in links.items():
        directory = tmp_path / "flows" / flow / version
        directory.mkdir(parents=True)
        (directory / "main.py").write_text("pass\n" if flow != "edited" else "import os\n")
        (directory / ".complete").write_text(marker)
        (directory / ".environment").symlink_to(f"../../../envs/{environment}")
    auditor = Auditor({"flows": {}})
    auditor.audit_flows(tmp_path / "flows")
    assert {Path(finding.path).parent.name for finding in auditor.findings} == {"led-away", "edited"}


STATUS = """\
Package: tool
Status: install ok installed
Architecture: amd64
Version: 1.0-1
Conffiles:
 /etc/tool.conf {conf}
 /etc/old.conf 0123 obsolete

Package: other
Status: install ok installed
Architecture: all
Version: 2

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 2

Package: half
Status: install ok half-configured
Architecture: all
Version: 2
"""


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    """A root directory with two packages, a diverted file and excluded documentation."""
    for name, text in (
        ("usr/bin/tool", "tool\n"),
        ("usr/bin/shared", "other's\n"),
        ("usr/bin/shared.distrib", "tool's\n"),
        ("etc/tool.conf", "setting\n"),
        ("var/lib/dpkg/status", STATUS.format(conf=md5("setting\n"))),
        ("var/lib/dpkg/diversions", "/usr/bin/shared\n/usr/bin/shared.distrib\nother\n"),
        (
            "var/lib/dpkg/info/tool:amd64.md5sums",
            f"{md5('tool')}  usr/share/doc/tool/copyright\n{md5('tool' + chr(10))}  usr/bin/tool\n"
            f"{md5(chr(116) + 'ool' + chr(39) + 's' + chr(10))}  usr/bin/shared\n",
        ),
        ("var/lib/dpkg/info/other.md5sums", f"{md5('other' + chr(39) + 's' + chr(10))}  usr/bin/shared\n"),
        ("etc/dpkg/dpkg.cfg.d/docker", "path-exclude /usr/share/doc/*\npath-include /usr/share/doc/kept/*\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def debian_findings(root: Path, carried: dict[str, str] | None = None) -> dict[str, str]:
    findings = audit_packages(carried or {}, root).findings
    return {finding.path.removeprefix(f"{root}/"): finding.what for finding in findings}


HALF = {"package half": "unaudited"}


def test_debian_packages_as_they_were_installed(debian: Path) -> None:
    assert debian_findings(debian) == HALF
    audit = audit_packages({}, debian)
    assert (audit.packages, audit.carried, audit.configuration) == (2, 0, [])


def test_changed_and_missing_files_of_debian_packages_are_named(debian: Path) -> None:
    (debian / "usr/bin/tool").write_text("planted\n")
    (debian / "usr/bin/shared.distrib").unlink()
    assert debian_findings(debian) == HALF | {"usr/bin/tool": "changed", "usr/bin/shared.distrib": "missing"}


def test_changed_configuration_is_told_apart(debian: Path) -> None:
    (debian / "etc/tool.conf").write_text("other\n")
    assert debian_findings(debian) == HALF
    assert audit_packages({}, debian).configuration == ["/etc/tool.conf"]


def test_the_mirrors_package_counts_for_more_than_the_nodes_list(debian: Path) -> None:
    sums = debian / "var/lib/dpkg/info/tool:amd64.md5sums"
    honest = sums.read_text()
    (debian / "usr/bin/tool").write_text("planted\n")
    sums.write_text(honest.replace(md5("tool\n"), md5("planted\n")))
    assert debian_findings(debian) == HALF
    carried = {"tool 1.0-1 amd64": honest}
    assert audit_packages(carried, debian).carried == 1
    assert debian_findings(debian, carried) == HALF | {
        "usr/bin/tool": "changed",
        "var/lib/dpkg/info/tool:amd64.md5sums": "changed",
    }


@pytest.mark.parametrize(
    ("target", "found"),
    [
        # The name that an environment has on nodes of several targets; its flow is called like the environment here.
        ("{own}", None),
        ("other-0123456789ab", "changed"),
        ("../elsewhere", "changed"),
    ],
)
def test_a_common_name_leads_to_an_environment_of_its_flow(site: Site, target: str, found: str | None) -> None:
    own = site.path.name
    link = site.node.root / f"{own.rpartition('-')[0]}-0123456789ab"
    link.symlink_to(target.format(own=own))
    try:
        assert site.audit() == ({str(link): found} if found else {})
    finally:
        link.unlink()
