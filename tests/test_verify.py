from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import FILES, make_archive, unpack

from airgap.errors import AirgapError, VerificationError
from airgap.verify import main, verify, verify_archive, verify_directory

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
        verify_directory(bundle)


def test_a_link_in_place_of_a_file_is_refused(bundle: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (bundle / WHEEL).rename(elsewhere)
    (bundle / WHEEL).symlink_to(elsewhere)
    with pytest.raises(VerificationError, match=r"is no plain file.*is missing"):
        verify_directory(bundle)


def test_what_the_operator_adds_is_allowed(bundle: Path) -> None:
    for path in ("ansible/inventory.yml", "ansible/secrets.yml", "ansible/main.retry", "airgap/__pycache__/x.pyc",
                 "ansible/.ansible/tmp/x", "SHA256SUMS.sig"):  # fmt: skip
        (bundle / path).parent.mkdir(parents=True, exist_ok=True)
        (bundle / path).touch()
    verify_directory(bundle)


def test_all_damage_is_named_at_once(bundle: Path) -> None:
    flip(bundle)
    (bundle / "README.md").unlink()
    (bundle / "extra").touch()
    with pytest.raises(VerificationError, match=r"README.md is missing; .*whl is damaged; extra should not be there"):
        verify_directory(bundle)


@pytest.mark.parametrize("kept", [1_000, 50_000, -100, -4])
def test_a_truncated_archive(archive: Path, kept: int) -> None:
    archive.write_bytes(archive.read_bytes()[:kept])
    with pytest.raises(VerificationError, match="truncated or damaged"):
        verify_archive(archive)


def test_a_truncated_archive_without_the_gzip_wrapper(archive: Path) -> None:
    content = gzip.decompress(archive.read_bytes())
    archive.write_bytes(content)
    verify_archive(archive)
    archive.write_bytes(content[:60_000])
    with pytest.raises(VerificationError, match=r"truncated or damaged|is missing"):
        verify_archive(archive)


def test_a_flipped_bit_in_the_archive(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(VerificationError, match=r"is damaged|truncated or damaged"):
        verify_archive(archive)


def test_something_else_than_an_archive(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no archive at all")
    with pytest.raises(VerificationError, match="truncated or damaged"):
        verify_archive(tmp_path / "x")
    with pytest.raises(VerificationError, match="does not exist"):
        verify_archive(tmp_path / "y")
    with pytest.raises(VerificationError, match=r"manifest\.json is missing"):
        verify(tmp_path)


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
        (link("pag-software-bundle/link", tarfile.SYMTYPE), "link is no plain file"),
        (link("pag-software-bundle/hard", tarfile.LNKTYPE), "hard is no plain file"),
        (link("pag-software-bundle/device", tarfile.CHRTYPE), "device is no plain file"),
    ],
)
def test_members_that_do_not_belong(archive: Path, member: tarfile.TarInfo, message: str) -> None:
    with_member(archive, member)
    with pytest.raises(VerificationError, match=message):
        verify_archive(archive)


def test_main(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle)]) == 0
    assert "bundle   1.2.3" in capsys.readouterr().out
    flip(bundle)
    assert main([str(bundle)]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert main([]) == 2


def test_it_needs_the_standard_library_only(bundle: Path) -> None:
    root = Path(__file__).parent.parent
    program = f"import sys; sys.path.insert(0, {str(root)!r}); from airgap.verify import main; sys.exit(main())"
    command = [sys.executable, "-I", "-S", "-c", program, str(bundle)]
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_sha256sum_reads_the_list(bundle: Path) -> None:
    command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(command, cwd=bundle, capture_output=True).returncode == 0
