"""What packing a flow refuses before anything is fetched or written: what the cluster would refuse later.

Nothing of the flow is imported: its packages need not be on the packing machine.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from packaging.version import Version

from airgap.errors import PackError
from airgap.targets import Target

_PREFECT_YAML = "prefect.yaml"
_SKIPPED_DIRECTORIES = frozenset({"__pycache__", "node_modules"})


def check_targets(targets: Sequence[Target], site: Sequence[str]) -> None:
    """Raise PackError when one of *targets* is none that the *site* has (names, as have.json lists them)."""
    foreign = [target.name for target in targets if target.name not in site]
    if foreign:
        raise PackError(
            f"The cluster has no nodes for {', '.join(foreign)} (it has {', '.join(sorted(site))}): pack for those "
            "with --target."
        )


def check_prefect(flow: Path, version: str | None, newest: str | None) -> None:
    """Raise PackError when *flow*'s Prefect, *version*, is missing or newer than the cluster's, *newest*."""
    if version is None:
        raise PackError(
            f"The flow {flow} has no Prefect, without which no worker runs it: add prefect, and lock again."
        )
    if newest is not None and Version(version) > Version(newest):
        raise PackError(
            f"The flow {flow} has Prefect {version}, which is newer than the cluster's {newest}: lock the flow with "
            f"prefect<={newest}, or update the cluster first."
        )


def check_entrypoints(flow: Path, entrypoint: str | None) -> None:
    """Raise PackError unless the functions that deployments of *flow* start are there.

    They are *entrypoint* (``main.py:my_workflow``) or, where it is None, those of ``prefect.yaml``. Where that has none
    either, some file of the directory must have a flow, which the flow playbook can be told.
    """
    entrypoints = [entrypoint] if entrypoint is not None else _entrypoints(flow / _PREFECT_YAML)
    for given in entrypoints:
        _check_entrypoint(flow, given)
    if not entrypoints and not any(_has_flow(path) for path in _python_files(flow)):
        raise PackError(
            f"No file in {flow} has a function with @flow at its top level: write one, or name it with --entrypoint "
            "FILE.py:FUNCTION."
        )


def _entrypoints(path: Path) -> list[str]:
    """Return the entrypoints of the deployments that the ``prefect.yaml`` at *path* has; none without such a file."""
    if not path.is_file():
        return []
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        deployments = document.get("deployments") or []
        return [str(deployment["entrypoint"]).removeprefix("./") for deployment in deployments]
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        place = getattr(error, "problem_mark", None)
        where = f", line {place.line + 1}" if place else ""
        raise PackError(
            f"{path}{where} has no list of deployments that each have an entrypoint: mend it, or give --entrypoint."
        ) from error


def _check_entrypoint(flow: Path, entrypoint: str) -> None:
    name, separator, function = entrypoint.rpartition(":")
    if not separator or not name.endswith(".py") or not function.isidentifier():
        raise PackError(
            f"The entrypoint {entrypoint!r} is not of the form FILE.py:FUNCTION: give one such as main.py:my_workflow."
        )
    path = (flow / name).resolve()
    if not path.is_relative_to(flow.resolve()) or not path.is_file():
        raise PackError(f"The entrypoint's file {name} is not in {flow}: check --entrypoint and {_PREFECT_YAML}.")
    module = _parsed(path)
    found = [statement for statement in _top_level(module) if function in _bound_names(statement)]
    if not found:
        raise PackError(f"{path} has no function {function} at its top level: check --entrypoint and {_PREFECT_YAML}.")
    if not _may_be_flow(found[-1], _origins(module)):
        raise PackError(f"{function} in {path} is no flow: decorate it with @flow.")


def _python_files(flow: Path) -> Iterator[Path]:
    for path in sorted(flow.rglob("*.py")):
        parents = path.relative_to(flow).parts[:-1]
        if not any(part.startswith(".") or part in _SKIPPED_DIRECTORIES for part in parents):
            yield path


def _has_flow(path: Path) -> bool:
    try:
        module = _parsed(path)
    except PackError:
        return False  # no entrypoint; what else it is for is not known
    origins = _origins(module)
    return any(
        _may_be_flow(statement, origins)
        for statement in _top_level(module)
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise PackError(f"{path}{line} is no valid Python ({reason}): mend it.") from error


def _top_level(module: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements of *module*, those in its conditions and ``try`` blocks too."""
    waiting: list[ast.stmt] = list(module.body)
    while waiting:
        statement = waiting.pop(0)
        yield statement
        if isinstance(statement, ast.If | ast.Try | ast.With):
            inner = [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)]
            handlers = statement.handlers if isinstance(statement, ast.Try) else []
            waiting[:0] = [*inner, *(child for handler in handlers for child in handler.body)]


def _bound_names(statement: ast.stmt) -> set[str]:
    """Return the names that *statement* gives something to."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
    if isinstance(statement, ast.Assign):
        return {target.id for target in statement.targets if isinstance(target, ast.Name)}
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return {statement.target.id}
    return set()


def _origins(module: ast.Module) -> dict[str, str]:
    """Return what the names that *module* imports stand for, with dots: ``{"flow": "prefect.flow"}``."""
    origins: dict[str, str] = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            origins |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            origins |= {alias.asname or alias.name: f"{source}.{alias.name}" for alias in node.names}
    return origins


def _may_be_flow(statement: ast.stmt, origins: dict[str, str]) -> bool:
    """Whether what *statement* defines can be a flow: what is made by code of the author's own is not known here."""
    if isinstance(statement, ast.ClassDef):
        return False
    if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        return True
    return any(_may_make_flow(decorator, origins) for decorator in statement.decorator_list)


def _may_make_flow(decorator: ast.expr, origins: dict[str, str]) -> bool:
    node = decorator.func if isinstance(decorator, ast.Call) else decorator
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return True
    name = ".".join([origins.get(node.id, node.id), *parts])
    package = name.partition(".")[0]
    if package == "prefect":
        return name.rpartition(".")[2] == "flow"
    return package not in sys.stdlib_module_names and name not in ("staticmethod", "classmethod", "property")
