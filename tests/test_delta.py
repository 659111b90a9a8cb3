from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from airgap.delta import Base, read_base, split
from airgap.errors import ManifestError, SignatureError, UsageError
from airgap.hashing import sha256_of_bytes
from airgap.have import Have, HavePackage
from airgap.manifest import Kind, ManifestFile
from airgap.signature import BUNDLE_NAMESPACE, HAVE_NAMESPACE, sign

HAVE = Have(
    created_by="tests",
    prefect_version=None,
    targets=(),
    packages=(HavePackage("mirror/pypi/a.whl", "a" * 64, 1), HavePackage("mirror/pypi/old.whl", "0" * 64, 1)),
    contents=frozenset({"c" * 64}),
)


def file(path: str, digit: str, kind: Kind) -> ManifestFile:
    return ManifestFile(path, digit * 64, 1, kind)


@pytest.mark.parametrize(
    ("entry", "travels"),
    [
        (file("mirror/pypi/a.whl", "a", "wheel"), False),
        (file("mirror/pypi/a.whl", "b", "wheel"), True),
        # A package is found by its path: under another one it is not where the mirror wants it.
        (file("mirror/pypi/b.whl", "a", "wheel"), True),
        # Everything else by its content, wherever it was.
        (file("ansible/main.yml", "c", "ansible"), False),
        (file("mirror/pypi/simple/a/index.html", "c", "index"), False),
        (file("ansible/main.yml", "d", "ansible"), True),
        (file("mirror/pypi/c.whl", "c", "wheel"), True),
        # What a bundle is read and installed with.
        (file("README.md", "c", "document"), True),
        (file("sbom.cdx.json", "c", "document"), True),
        (file("install-pag-controller.sh", "c", "software"), True),
        (file("airgap/verify.py", "c", "software"), True),
        (file("airgap/hashing.py", "c", "software"), True),
        (file("airgap/build.py", "c", "software"), False),
    ],
)
def test_what_travels(entry: ManifestFile, travels: bool) -> None:
    modules = {"airgap/verify.py": b"from airgap import hashing", "airgap/hashing.py": b"", "airgap/build.py": b""}
    expected = ([entry], []) if travels else ([], [entry])
    assert split([entry], Base(HAVE, "f" * 64), modules) == expected
    assert split([entry], None, modules) == ([entry], [])


@pytest.fixture
def carried(tmp_path: Path) -> Path:
    path = tmp_path / "site 1.json"
    path.write_text(HAVE.to_json(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    public = path.with_suffix(".pub").read_text(encoding="utf-8")
    path.with_name("signers").write_text(f"site-1 {public}", encoding="utf-8")
    return path


def test_a_base_is_named_by_the_files_digest(carried: Path) -> None:
    base = read_base(carried)
    assert base.digest == sha256_of_bytes(carried.read_bytes())
    assert base.have.contents == HAVE.contents


def test_a_signed_base(carried: Path, key: Path) -> None:
    signature = sign(carried.read_bytes(), key, HAVE_NAMESPACE)
    carried.with_name("site 1.json.sig").write_bytes(signature)
    assert read_base(carried, key.with_name("signers")) == read_base(carried)
    carried.write_text(carried.read_text(encoding="utf-8").replace("tests", "tester"), encoding="utf-8")
    with pytest.raises(SignatureError, match=r"site 1\.json is not to be trusted: "):
        read_base(carried, key.with_name("signers"))


def test_a_signature_for_something_else_does_not_count(carried: Path, key: Path) -> None:
    carried.with_name("site 1.json.sig").write_bytes(sign(carried.read_bytes(), key, BUNDLE_NAMESPACE))
    with pytest.raises(SignatureError, match="is not to be trusted"):
        read_base(carried, key.with_name("signers"))


def test_a_base_without_its_signature_is_refused_where_signers_are_given(carried: Path, key: Path) -> None:
    with pytest.raises(UsageError, match=r"site 1\.json\.sig cannot be read .*: carry it over too"):
        read_base(carried, key.with_name("signers"))
    with pytest.raises(UsageError, match="--have-signers"):
        read_base(carried, key.with_name("nobody"))


def test_what_is_no_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"have\.json cannot be read .*: write it on the controller with have\.yml"):
        read_base(tmp_path / "have.json")
    (tmp_path / "have.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ManifestError, match="is no text"):
        read_base(tmp_path / "have.json")
