from __future__ import annotations

import gzip
import io
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from bundles import FILES, allow, listed, make_archive, make_key, unpack

from airgap.errors import AirgapError, ManifestError, SignatureError, VerificationError
from airgap.hashing import sha256_of_bytes
from airgap.signature import sign
from airgap.verify import main, parse_checksums, verify

WHEEL = "mirror/pypi/a-1-py3-none-any.whl"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return make_archive(tmp_path / "bundle.tar.gz")


@pytest.fixture
def bundle(archive: Path, tmp_path: Path) -> Path:
    return unpack(archive, tmp_path / "unpacked")


def test_a_whole_bundle_gives_the_same_receipt_packed_and_unpacked(archive: Path, bundle: Path) -> None:
    receipt = verify(archive).receipt
    assert receipt == verify(bundle).receipt
    assert receipt.files == len(FILES) + 2
    assert receipt.targets == ("debian-12-x86_64",)
    assert receipt.size == sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())


def flip(bundle: Path) -> None:
    content = bytearray((bundle / WHEEL).read_bytes())
    content[50_000] ^= 1
    (bundle / WHEEL).write_bytes(content)


def swap_list(bundle: Path) -> None:
    # Whoever changes a file and its line in the one list is found out by the other.
    sums = (bundle / "SHA256SUMS").read_text().replace("README.md", "README.txt")
    (bundle / "SHA256SUMS").write_text(sums)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, f"{WHEEL} is damaged"),
        (lambda bundle: (bundle / WHEEL).unlink(), f"{WHEEL} is missing"),
        (lambda bundle: (bundle / "ansible/group_vars.yml").touch(), "ansible/group_vars.yml should not be there"),
        (lambda bundle: (bundle / "roles").mkdir() or (bundle / "roles/x").touch(), "roles/x should not be there"),
        (
            lambda bundle: (bundle / "ansible/sub").mkdir() or (bundle / "ansible/sub/inventory.yml").touch(),
            "should not",
        ),
        (lambda bundle: (bundle / "link").symlink_to("README.md"), "link is no plain file"),
        (lambda bundle: os.mkfifo(bundle / "pipe"), "pipe is no plain file"),
        (lambda bundle: (bundle / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda bundle: (bundle / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
        (lambda bundle: (bundle / "manifest.json").write_text("{}"), "no bundle manifest"),
        (lambda bundle: (bundle / "SHA256SUMS").write_text("what"), "is no checksum"),
        (swap_list, "README.md is listed differently"),
    ],
)
def test_damage_is_named(bundle: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(bundle)
    with pytest.raises(AirgapError, match=message):
        verify(bundle)


def test_a_link_in_place_of_a_file_is_refused(bundle: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (bundle / WHEEL).rename(elsewhere)
    (bundle / WHEEL).symlink_to(elsewhere)
    with pytest.raises(VerificationError, match=r"is no plain file.*is missing"):
        verify(bundle)


def test_what_the_operator_adds_is_allowed(bundle: Path) -> None:
    for path in ("ansible/inventory.yml", "ansible/secrets.yml", "ansible/main.retry"):
        (bundle / path).touch()
    verify(bundle)


@pytest.mark.parametrize("path", ["ansible/inventory.yml", "ansible/secrets.yml", "ansible/main.retry"])
def test_nobody_adds_to_a_directory_that_was_just_unpacked(bundle: Path, path: str) -> None:
    assert verify(bundle, in_use=False).receipt == verify(bundle).receipt
    (bundle / path).touch()
    with pytest.raises(VerificationError, match=rf"{path} should not be there\. Carry it over again"):
        verify(bundle, in_use=False)


ACTION = "ansible/collections/ansible_collections/ansible/posix/plugins/action"


def test_compiled_plugins_are_named_and_not_trusted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = FILES | {f"{ACTION}/synchronize.py": b""}
    bundle = unpack(make_archive(tmp_path / "a.tar.gz", files), tmp_path)
    receipt = verify(bundle).receipt
    (bundle / ACTION / "__pycache__").mkdir()
    (bundle / ACTION / "__pycache__/synchronize.cpython-311.pyc").touch()
    verified = verify(bundle)
    assert verified.compiled == (f"{ACTION}/__pycache__/synchronize.cpython-311.pyc",)
    assert verified.receipt == receipt
    assert main([str(bundle)]) == 0
    assert "left 1 compiled files, which nothing can check (ansible/collections/" in capsys.readouterr().err
    with pytest.raises(VerificationError, match=r"synchronize\.cpython-311\.pyc should not be there"):
        verify(bundle, in_use=False)


def test_compiled_plugins_do_not_travel(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz", FILES | {f"{ACTION}/synchronize.py": b""})
    compiled = f"{ACTION}/__pycache__/synchronize.cpython-311.pyc"
    with_member(archive, tarfile.TarInfo(f"pag-software-bundle/{compiled}"), b"code")
    with pytest.raises(VerificationError, match=f"{compiled} should not be there"):
        verify(archive)


@pytest.mark.parametrize(
    "path",
    [
        f"{ACTION}/__pycache__/other.cpython-311.pyc",
        f"{ACTION}/__pycache__/synchronize.py",
        f"{ACTION}/__pycache__/synchronize.cpython-311.so",
        f"{ACTION}/__pycache__/__pycache__/synchronize.cpython-311.pyc",
        f"{ACTION}/synchronize.pyc",
        "ansible/.ansible/collections/x",
        "airgap/__pycache__/verify.cpython-311.pyc",
        "flows/demo/__pycache__/main.cpython-311.pyc",
        "__pycache__/x.cpython-311.pyc",
    ],
)
def test_other_compiled_code_is_refused(tmp_path: Path, path: str) -> None:
    files = FILES | {f"{ACTION}/synchronize.py": b"", "airgap/verify.py": b"", "flows/demo/main.py": b"", "x.py": b""}
    bundle = unpack(make_archive(tmp_path / "a.tar.gz", files), tmp_path)
    (bundle / path).parent.mkdir(parents=True, exist_ok=True)
    (bundle / path).touch()
    with pytest.raises(VerificationError, match=f"{path} should not be there"):
        verify(bundle)


def test_a_link_to_compiled_code_is_refused(tmp_path: Path) -> None:
    bundle = unpack(make_archive(tmp_path / "a.tar.gz", FILES | {f"{ACTION}/synchronize.py": b""}), tmp_path)
    (bundle / ACTION / "__pycache__").symlink_to(tmp_path)
    with pytest.raises(VerificationError, match="__pycache__ is no plain file"):
        verify(bundle)


def test_all_damage_is_named_at_once(bundle: Path) -> None:
    flip(bundle)
    (bundle / "README.md").unlink()
    (bundle / "extra").touch()
    with pytest.raises(VerificationError, match=r"README.md is missing; .*whl is damaged; extra should not be there"):
        verify(bundle)


def test_of_what_only_should_not_be_there_it_says_what_helps(bundle: Path) -> None:
    (bundle / "extra").touch()
    with pytest.raises(VerificationError, match=r"extra should not be there\. Remove .*, or unpack .* a new directory"):
        verify(bundle)
    flip(bundle)
    with pytest.raises(VerificationError, match=r"extra should not be there\. Carry it over again\."):
        verify(bundle)


@pytest.mark.parametrize("character", ["\r", "\f", "\x0b", "\x1c", "\x85", "\u2028"])
def test_lines_end_where_sha256sum_ends_them(character: str, tmp_path: Path) -> None:
    name = f"flows/a{character}b"
    content = f"{sha256_of_bytes(b'')}  {name}\n{'1' * 64}  other\n".encode()
    assert parse_checksums(content, "x") == {name: sha256_of_bytes(b""), "other": "1" * 64}
    (tmp_path / "flows").mkdir()
    (tmp_path / name).touch()
    command = ["sha256sum", "--check", "--strict", "--quiet"]
    assert subprocess.run(command, cwd=tmp_path, input=content.partition(b"1" * 64)[0]).returncode == 0


@pytest.mark.parametrize("content", [b"\n", b"\n\n", b"1" * 64 + b"  a\n\n", b"1" * 64 + b"  a\n" + b"2" * 64])
def test_lines_that_are_no_checksums(content: bytes) -> None:
    with pytest.raises(ManifestError, match=r"x/SHA256SUMS, line [12], is no checksum"):
        parse_checksums(content, "x")


@pytest.mark.parametrize("kept", [1_000, 50_000, -100, -4])
def test_a_truncated_archive(archive: Path, kept: int) -> None:
    archive.write_bytes(archive.read_bytes()[:kept])
    with pytest.raises(VerificationError, match="truncated or damaged"):
        verify(archive)


def test_a_truncated_archive_without_the_gzip_wrapper(archive: Path) -> None:
    content = gzip.decompress(archive.read_bytes())
    archive.write_bytes(content)
    verify(archive)
    archive.write_bytes(content[:60_000])
    with pytest.raises(VerificationError, match=r"truncated or damaged|is missing"):
        verify(archive)


def test_a_flipped_bit_in_the_archive(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(VerificationError, match=r"is damaged|truncated or damaged"):
        verify(archive)


def test_something_else_than_an_archive(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no archive at all")
    with pytest.raises(VerificationError, match="truncated or damaged"):
        verify(tmp_path / "x")
    with pytest.raises(VerificationError, match="does not exist"):
        verify(tmp_path / "y")
    with pytest.raises(VerificationError, match=r"manifest\.json is missing"):
        verify(tmp_path)


def test_what_cannot_be_read_is_named(archive: Path) -> None:
    with pytest.raises(VerificationError, match=r"bundle\.tar\.gz/x cannot be read \(Not a directory\)"):
        verify(archive / "x")


def with_member(archive: Path, member: tarfile.TarInfo, content: bytes = b"") -> None:
    plain = io.BytesIO(gzip.decompress(archive.read_bytes()))
    with tarfile.open(fileobj=plain, mode="a") as tar:
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    archive.write_bytes(gzip.compress(plain.getvalue(), 0))


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = "/etc/passwd"
    return member


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (tarfile.TarInfo("pag-software-bundle/../../evil"), "leaves pag-software-bundle/"),
        (tarfile.TarInfo("/etc/evil"), "leaves pag-software-bundle/"),
        (tarfile.TarInfo("elsewhere/evil"), "leaves pag-software-bundle/"),
        (tarfile.TarInfo("pag-software-bundle/extra"), "extra should not be there"),
        (tarfile.TarInfo("pag-software-bundle/README.md"), "README.md is there twice"),
        (tarfile.TarInfo("pag-software-bundle/ansible/inventory.yml"), "inventory.yml should not be there.*Carry it"),
        (tarfile.TarInfo("pag-software-bundle/ansible/secrets.yml"), "secrets.yml should not be there"),
        (tarfile.TarInfo("pag-software-bundle/ansible/main.retry"), "main.retry should not be there"),
        (link("pag-software-bundle/link", tarfile.SYMTYPE), "link is no plain file"),
        (link("pag-software-bundle/hard", tarfile.LNKTYPE), "hard is no plain file"),
        (link("pag-software-bundle/device", tarfile.CHRTYPE), "device is no plain file"),
    ],
)
def test_members_that_do_not_belong(archive: Path, member: tarfile.TarInfo, message: str) -> None:
    with_member(archive, member)
    with pytest.raises(VerificationError, match=message):
        verify(archive)


def test_main(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle)]) == 0
    assert "bundle   1.2.3" in capsys.readouterr().out
    flip(bundle)
    assert main([str(bundle)]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(SystemExit, match="2"):
        main([])


def test_it_needs_the_standard_library_only(bundle: Path) -> None:
    root = Path(__file__).parent.parent
    program = f"import sys; sys.path.insert(0, {str(root)!r}); from airgap.verify import main; sys.exit(main())"
    command = [sys.executable, "-I", "-S", "-c", program, str(bundle)]
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_sha256sum_reads_the_list(bundle: Path) -> None:
    command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(command, cwd=bundle, capture_output=True).returncode == 0


BASE = "b" * 64
RELIED_ON = {"ansible/roles/x.yml": b"role\n", "mirror/pypi/b-1-py3-none-any.whl": b"wheel"}


@pytest.fixture
def delta(tmp_path: Path) -> Path:
    relied_on = tuple(listed(path, content) for path, content in RELIED_ON.items())
    return make_archive(tmp_path / "delta.tar.gz", base=BASE, relies_on=relied_on)


def put(bundle: Path, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        (bundle / path).parent.mkdir(parents=True, exist_ok=True)
        (bundle / path).write_bytes(content)


def test_a_delta_has_the_same_receipt_before_and_after_it_is_completed(delta: Path, tmp_path: Path) -> None:
    receipt = verify(delta).receipt
    assert str(receipt).endswith(f"\nbase     {BASE}")
    assert receipt.files == len(FILES) + 2
    bundle = unpack(delta, tmp_path)
    assert verify(bundle).receipt == receipt
    put(bundle, RELIED_ON)
    assert verify(bundle).receipt == receipt


def test_what_a_delta_relies_on_is_checked_where_it_is(delta: Path, tmp_path: Path) -> None:
    bundle = unpack(delta, tmp_path)
    put(bundle, {"ansible/roles/x.yml": b"evil"})
    with pytest.raises(VerificationError, match=r"ansible/roles/x\.yml is damaged"):
        verify(bundle)


def test_what_an_earlier_bundle_brought_is_left_over(delta: Path, tmp_path: Path) -> None:
    bundle = unpack(delta, tmp_path)
    old = {"ansible/roles/gone.yml": b"old", "mirror/pypi/a-0.whl": b"older", "ansible/roles/x.yml": b"old role"}
    put(bundle, old)
    known = {path: {sha256_of_bytes(content), "0" * 64} for path, content in old.items()}
    assert verify(bundle, known=known).leftovers == tuple(sorted(old))
    with pytest.raises(VerificationError, match=r"gone\.yml should not be there.*x\.yml is damaged"):
        verify(bundle)
    put(bundle, {"ansible/roles/gone.yml": b"changed"})
    with pytest.raises(VerificationError, match=r"ansible/roles/gone\.yml should not be there"):
        verify(bundle, known=known)


def test_a_file_that_travels_is_never_left_over(delta: Path, tmp_path: Path) -> None:
    bundle = unpack(delta, tmp_path)
    put(bundle, {"README.md": b"old"})
    with pytest.raises(VerificationError, match=r"README\.md is damaged"):
        verify(bundle, known={"README.md": {sha256_of_bytes(b"old")}})


def test_the_receipt(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz", FILES | {"sbom.cdx.json": b"{}"})
    receipt = verify(archive).receipt
    assert str(receipt) == (
        "bundle   1.2.3\n"
        f"digest   {receipt.digest}\n"
        f"files    7 ({receipt.size} bytes), all as listed\n"
        "signer   none\n"
        f"sbom     {sha256_of_bytes(b'{}')}\n"
        "python   system\n"
        "targets  debian-12-x86_64"
    )
    bundle = unpack(archive, tmp_path)
    assert receipt.digest == sha256_of_bytes((bundle / "SHA256SUMS").read_bytes())


@dataclass
class Signed:
    archive: Path
    unpacked: Path
    signers: Path
    key: Path


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    key = make_key(tmp_path / "alice")
    archive = make_archive(tmp_path / "signed.tar.gz", key=key)
    return Signed(archive, unpack(archive, tmp_path / "signed"), allow(tmp_path / "allowed_signers", key), key)


def test_the_signer_is_on_the_receipt(signed: Signed, archive: Path) -> None:
    for place in (signed.archive, signed.unpacked):
        assert re.fullmatch(r"alice@site \(ED25519 SHA256:\S+\)", verify(place, signers=signed.signers).receipt.signer)
        unchecked = verify(place).receipt.signer
        assert re.fullmatch(r"SHA256:\S+ \(not checked: no allowed signers\)", unchecked)
    # A signature does not change what is signed.
    assert verify(signed.archive).receipt.digest == verify(archive).receipt.digest
    assert verify(signed.archive).receipt.files == verify(archive).receipt.files


def test_an_unsigned_bundle_is_refused_where_signers_are_named(signed: Signed, archive: Path, bundle: Path) -> None:
    for place in (archive, bundle):
        with pytest.raises(SignatureError, match=r"is not signed, and .*allowed_signers says who may: build it with"):
            verify(place, signers=signed.signers)
    (signed.unpacked / "SHA256SUMS.sig").unlink()
    with pytest.raises(SignatureError, match="is not signed"):
        verify(signed.unpacked, signers=signed.signers)


def test_a_wrong_signature_is_refused(signed: Signed, tmp_path: Path) -> None:
    other = make_archive(tmp_path / "other.tar.gz", key=make_key(tmp_path / "mallory"))
    with pytest.raises(SignatureError, match=r"because of SHA256SUMS\.sig"):
        verify(other, signers=signed.signers)
    for wrong in (sign(b"other", signed.key, "pag-bundle"), b"", b"junk"):
        (signed.unpacked / "SHA256SUMS.sig").write_bytes(wrong)
        for signers in (signed.signers, None):
            with pytest.raises(SignatureError, match=r"is not accepted, because of SHA256SUMS.sig"):
                verify(signed.unpacked, signers=signers)


def test_a_signed_bundle_with_other_files_is_refused(signed: Signed) -> None:
    (signed.unpacked / "README.md").write_text("other")
    with pytest.raises(VerificationError, match=r"README\.md is damaged"):
        verify(signed.unpacked, signers=signed.signers)


def test_main_asks_for_the_site_s_signers(
    signed: Signed, archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(archive)]) == 0
    assert main([str(archive), "--allowed-signers", str(signed.signers)]) == 1
    monkeypatch.setattr("airgap.signature.ALLOWED_SIGNERS", signed.signers)
    assert main([str(archive)]) == 1
    capsys.readouterr()
    assert main([str(signed.archive)]) == 0
    assert "signer   alice@site (ED25519 SHA256:" in capsys.readouterr().out


def by_hand(repository: Path) -> str:
    """Return the commands under "Checking by hand" in the documentation."""
    text = (repository / "docs/bundle-format.md").read_text(encoding="utf-8")
    match = re.search(r"<!-- test:by-hand -->\n```shell\n(.*?)```", text, re.DOTALL)
    assert match is not None
    return match[1]


def run_by_hand(commands: str, bundle: Path) -> list[int]:
    return [
        subprocess.run(["sh", "-c", line], cwd=bundle, env={"PATH": "/usr/bin:/bin"}, timeout=30).returncode
        for line in commands.splitlines()
    ]


def test_a_stock_system_checks_a_bundle_with_the_two_lines_of_the_documentation(
    signed: Signed, repository: Path
) -> None:
    commands = by_hand(repository)
    allow(signed.unpacked.parent / "allowed_signers", signed.key, name="release@example.org")
    assert len(commands.splitlines()) == 2
    assert run_by_hand(commands, signed.unpacked) == [0, 0]
    (signed.unpacked / "README.md").write_text("other")
    assert run_by_hand(commands, signed.unpacked) == [1, 0]
    with (signed.unpacked / "SHA256SUMS").open("a") as sums:
        sums.write(f"{sha256_of_bytes(b'')}  empty\n")
    assert run_by_hand(commands, signed.unpacked) == [1, 255]
