"""Compiled Python code (``.pyc``) of an environment, shared between environments like the source files are.

Without it, every start of a program compiles anew what it imports, as its user may not write into an environment:
seconds for each flow run. Compiled code goes with its source file by inode, which environments share; a link to the
source is kept beside it, so that the inode is not given to another file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_COMPILE = """
import compileall, json, sys
from concurrent.futures import ProcessPoolExecutor
import functools
paths = json.load(sys.stdin)
work = functools.partial(compileall.compile_file, quiet=2)
with ProcessPoolExecutor() as pool:
    list(pool.map(work, paths, chunksize=64))
"""


def compile_command(python: Path) -> list[str]:
    """Return the command that compiles the source files whose paths it reads as JSON."""
    # -I and -S: nothing but the interpreter and its library. The environment's own .pth files and sitecustomize would
    # run as root.
    return [str(python), "-I", "-S", "-c", _COMPILE]


def link_compiled(prefix: Path, store: Path, tag: str) -> list[Path]:
    """Link compiled code that is in *store* to its sources below *prefix*; return the sources that have none there.

    *tag* names the interpreter, as in ``cpython-311``.
    """
    missing: list[Path] = []
    for parent, sources in _sources(prefix):
        directory = f"{parent}/__pycache__"
        there = {path.name for path in Path(directory).iterdir()} if Path(directory).is_dir() else set()
        for source in sources:
            name = _compiled_name(source.name, tag)
            if name in there:
                continue
            stored = f"{store}/{_stored_name(source.stat(), tag)}"
            try:
                if not there:
                    Path(directory).mkdir(exist_ok=True)
                    there.add("")
                os.link(stored, f"{directory}/{name}")
            except FileNotFoundError:
                missing.append(Path(source.path))
    return missing


def keep_compiled(sources: list[Path], store: Path, tag: str) -> None:
    """Link the compiled code of *sources* into *store*; files that do not compile have none."""
    for source in sources:
        compiled = source.parent / "__pycache__" / _compiled_name(source.name, tag)
        if compiled.exists():
            stored = store / _stored_name(source.stat(), tag)
            stored.parent.mkdir(parents=True, exist_ok=True)
            for kept, file in ((stored.with_suffix(".py"), source), (stored, compiled)):
                kept.unlink(missing_ok=True)
                kept.hardlink_to(file)


def _sources(prefix: Path) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Yield the directories that have Python files, with those files."""
    pending = [str(prefix / "lib")] if (prefix / "lib").is_dir() else []
    while pending:
        parent = pending.pop()
        files = []
        with os.scandir(parent) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != "__pycache__":
                        pending.append(entry.path)
                elif entry.name.endswith(".py") and entry.is_file(follow_symlinks=False):
                    files.append(entry)
        if files:
            yield parent, files


def _compiled_name(source_name: str, tag: str) -> str:
    return f"{source_name.removesuffix('.py')}.{tag}.pyc"


def _stored_name(status: os.stat_result, tag: str) -> str:
    # Size and time are what Python itself compares before it uses compiled code.
    name = f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}.{tag}.pyc"
    return f"{status.st_ino % 256:02x}/{name}"
