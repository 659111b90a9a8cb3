from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from airgap.modules import needed_modules


def test_what_is_imported_is_followed_wherever_it_stands() -> None:
    sources = {
        "airgap/__init__.py": b"",
        "airgap/a.py": b"import json\nfrom airgap.b import x\ndef f():\n    import airgap.sub.deep\n",
        "airgap/b.py": b"from airgap import c, nothing",
        "airgap/c.py": b"import airgap.a",
        "airgap/d.py": b"",
        "airgap/sub/__init__.py": b"",
        "airgap/sub/deep.py": b"",
        "airgap/sub/other.py": b"",
    }
    assert needed_modules(["airgap.a"], sources) == sources.keys() - {"airgap/d.py", "airgap/sub/other.py"}
    assert needed_modules(["airgap.nosuch"], sources) == {"airgap/__init__.py"}


@pytest.mark.parametrize("module", ["airgap.controller", "airgap.verify"])
def test_a_module_runs_with_what_it_needs_and_nothing_else(repository: Path, tmp_path: Path, module: str) -> None:
    sources = {path.relative_to(repository).as_posix(): path.read_bytes() for path in repository.glob("airgap/**/*.py")}
    needed = needed_modules([module], sources)
    assert len(needed) < len(sources) / 2
    for path in needed:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(repository / path, tmp_path / path)
    shown = subprocess.run(
        ["/usr/bin/python3", "-B", "-c", f"import {module} as module; print(module.main.__doc__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
