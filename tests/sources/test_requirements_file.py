from __future__ import annotations

from pathlib import Path

import pytest

from airgap.errors import LockError
from airgap.sources.requirements_file import read_requirements

A, B = "a" * 64, "b" * 64
MARKERS = {"python_version": "3.11", "python_full_version": "3.11.2", "sys_platform": "linux"}


def read(tmp_path: Path, text: str) -> list[tuple[str, str, int]]:
    path = tmp_path / "requirements.txt"
    path.write_text(text, encoding="utf-8")
    return [(locked.name, locked.version, len(locked.hashes)) for locked in read_requirements(path, MARKERS)]


def test_reads_names_versions_hashes_and_markers(tmp_path: Path) -> None:
    text = f"""
# a comment
Some.Name==1.0 \\
    --hash=sha256:{A} \\
    --hash=sha256:{B}
with-extra[one,two]==2.0 --hash=sha256:{A}  # a remark
old==1 ; python_full_version < '3.11' \\
    --hash=sha256:{A}
patch==3 ; python_full_version < '3.11.3' \\
    --hash=sha256:{A}
windows==1 ; sys_platform == 'win32' --hash=sha256:{A}
"""
    assert read(tmp_path, text) == [("some-name", "1.0", 2), ("with-extra", "2.0", 1), ("patch", "3", 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a==1\n", "has no sha256 hashes"),
        (f"a>=1 --hash=sha256:{A}\n", "not pinned"),
        (f"a==1.* --hash=sha256:{A}\n", "not pinned"),
        (f"a==1,<2 --hash=sha256:{A}\n", "not pinned"),
        ("a==1 --hash=md5:abc\n", "no sha256 hashes"),
        (f"a==1 --hash=sha256:{A} --config-settings=x\n", "other options"),
        ("--index-url https://example.invalid/simple\n", "options such as --index-url"),
        ("-r other.txt\n", "options such as -r"),
        (f"a @ https://example.invalid/a.whl --hash=sha256:{A}\n", "locked to an address"),
        ("!!\n", "is no requirement"),
        (f"a==1 --hash=sha256:{A}\na==2 --hash=sha256:{B}\n", "locked twice"),
    ],
)
def test_refuses_what_is_no_lock_and_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LockError, match=message) as raised:
        read(tmp_path, "\n\n" + text)
    assert "requirements.txt:" in str(raised.value)
    assert ":3:" in str(raised.value) or ":4:" in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="cannot be read"):
        read_requirements(tmp_path / "none.txt", MARKERS)
