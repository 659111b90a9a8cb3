"""Whether compiled Python code (``.pyc``) is what compiling its source gives.

Python runs compiled code instead of the source as long as the source's time and size are those noted in it. The bytes
differ from one compilation to the next, so that what is compared is the code that they stand for. Standard library
only.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from pathlib import Path

_NAME = re.compile(r"(?P<source>.+)\.cpython-(?P<tag>\d+)(?:\.opt-(?P<optimisation>[12]))?\.pyc")
_CACHE = "__pycache__"

# Runs in the interpreter that the code is for, with paths as JSON on its input; nothing of what it reads is executed.
_CHECK = '''
import importlib.util, json, marshal, multiprocessing, os, sys, types

FIELDS = ("co_name", "co_qualname", "co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_nlocals", "co_flags",
          "co_stacksize", "co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_firstlineno",
          "co_linetable", "co_exceptiontable")

def form(value):
    """Return a comparable form that tells 1, 1.0 and True apart, and 0.0 and -0.0; file names are left out."""
    if isinstance(value, types.CodeType):
        return ("code", tuple(getattr(value, field, None) for field in FIELDS), form(value.co_consts))
    if isinstance(value, tuple):
        return ("tuple", tuple(form(item) for item in value))
    if isinstance(value, frozenset):
        return ("frozenset", frozenset(form(item) for item in value))
    if isinstance(value, slice):
        return ("slice", form(value.start), form(value.stop), form(value.step))
    return (type(value).__name__, repr(value) if isinstance(value, (float, complex)) else value)

def fault(job):
    path, source, optimisation = job
    try:
        with open(source, "rb") as stream:
            text = stream.read()
            status = os.fstat(stream.fileno())
        try:
            code = compile(text, source, "exec", dont_inherit=True, optimize=optimisation)
        except Exception:
            return "its source does not compile" if os.path.lexists(path) else None
        if not os.path.lexists(path):
            return "missing"
        with open(path, "rb") as stream:
            content = stream.read()
    except OSError as error:
        return "cannot be read: %s" % error.strerror
    noted = (int(status.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little") + (len(text) & 0xFFFFFFFF).to_bytes(4, "little")
    if content[:4] != importlib.util.MAGIC_NUMBER or content[4:16] != bytes(4) + noted:
        return "is not of its source"
    try:
        found = marshal.loads(content[16:])
        same = form(found) == form(code) and not readable(content[16:-1])
    except Exception:
        same = False
    return None if same else "is not of its source"

def readable(content):
    """Return whether there is code in what should be cut short: marshal does not say that more follows it."""
    try:
        marshal.loads(content)
    except (EOFError, ValueError, TypeError):
        return False
    return True

if __name__ == "__main__":
    sys.setrecursionlimit(20000)
    jobs = json.load(sys.stdin)
    with multiprocessing.get_context("fork").Pool() as pool:
        json.dump(pool.map(fault, jobs, chunksize=64), sys.stdout)
'''


class CompileError(Exception):
    """Code cannot be compiled for comparison; the message says why."""


@dataclass(frozen=True, order=True)
class Compiled:
    """A file of compiled code, there or missing, and its source."""

    path: str
    source: str
    source_name: str
    """Path of the source below the audited directory."""
    tag: str
    """The interpreter's version without the dot, as in the file's name."""
    optimisation: int

    def identity(self) -> tuple[int, ...]:
        """Return what is the same for all names of the same two files."""
        numbers: list[int] = [self.optimisation]
        for path in (self.path, self.source):
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                numbers += [0, 0]
            else:
                numbers += [status.st_dev, status.st_ino]
        return tuple(numbers)


def compiled_of(root: Path, name: str) -> Compiled | None:
    """Return the compiled code that the file *name* below *root* is by its name; None for other files."""
    directory, _, file_name = name.rpartition("/")
    parent, _, cache = directory.rpartition("/")
    match = _NAME.fullmatch(file_name)
    if cache != _CACHE or match is None:
        return None
    source = f"{parent}/{match['source']}.py".lstrip("/")
    return Compiled(f"{root}/{name}", f"{root}/{source}", source, match["tag"], int(match["optimisation"] or 0))


def missing_compiled(
    root: Path, sources: Sequence[str], there: Sequence[Compiled], packaged: Container[str]
) -> list[Compiled]:
    """Return the compiled code that *sources* lack, where their neighbours *there* have it.

    What is *packaged*, by path below *root*, is a package's own, and audited like any other file.
    """
    tag = there[0].tag
    have = {compiled.source_name for compiled in there if compiled.optimisation == 0}
    lacking = []
    for source in sources:
        if source not in have and source.startswith("env/lib/"):
            directory, _, file_name = source.rpartition("/")
            name = f"{directory}/{_CACHE}/{file_name.removesuffix('.py')}.cpython-{tag}.pyc"
            if name not in packaged:
                lacking.append(Compiled(f"{root}/{name}", f"{root}/{source}", source, tag, 0))
    return lacking


def check_compiled(python: str, version: str, compiled: Sequence[Compiled]) -> list[str | None]:
    """Return what is wrong with each of *compiled*, ``missing`` among it, and None for what is right.

    *python* is the interpreter that it is for, *version* its version (major.minor). Raises CompileError when that
    cannot be run.
    """
    tag = version.replace(".", "")
    jobs = [(entry.path, entry.source, entry.optimisation) for entry in compiled if entry.tag == tag]
    # -I and -S: nothing but the interpreter and its library; its own compiled code may be wrong, and is not used.
    command = [python, "-I", "-S", "-B", "-X", "pycache_prefix=/nonexistent", "-W", "ignore", "-c", _CHECK]
    try:
        finished = subprocess.run(
            command, input=json.dumps(jobs), capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}
        )
        faults = iter(json.loads(finished.stdout))
    except OSError as error:
        raise CompileError(f"cannot be run: {error.strerror}") from error
    except ValueError as error:
        raise CompileError(f"could not compile: {finished.stderr[-200:].strip()}") from error
    return [next(faults) if entry.tag == tag else f"is for Python {entry.tag}" for entry in compiled]
