"""Read a flow directory on the controller: what shall be deployed, and whether it can be.

Standard library and PyYAML only. Nothing of the flow is imported here: that happens in its own environment on a worker.
The format of ``prefect.yaml``: https://docs.prefect.io/v3/how-to-guides/deployments/prefect-yaml.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ansible.module_utils.run_limits import NAMES as LIMITS
from ansible.module_utils.run_limits import LimitError, read_limits

# Left out of what travels and of the digest: what tools leave behind, and the packages, which travel by themselves.
_IGNORED_DIRECTORIES = frozenset(
    {
        ".git",
        ".hg",
        ".pixi",
        ".venv",
        "__pycache__",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".ipynb_checkpoints",
    }
)
_IGNORED_SUFFIXES = (".pyc", ".pyo", "~", ".swp")

# What stands beside the code on the nodes.
_TAKEN = frozenset({".complete", ".environment"})

DEFAULT_PACK = "packed-env.tar"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ENTRYPOINT = re.compile(r"(?P<file>[^:]+\.py):(?P<function>[A-Za-z_][A-Za-z0-9_]*)")

# What a deployment in prefect.yaml may say, and what it may not in a cluster without Internet.
_HONOURED = frozenset(
    {
        "name",
        "version",
        "tags",
        "description",
        "schedule",
        "schedules",
        "entrypoint",
        "parameters",
        "work_pool",
        "concurrency_limit",
    }
)
# Job variables that say what a run is: the playbook sets them itself.
_OWN_VARIABLES = ("command", "working_dir")
_SCHEDULE_KINDS = ("cron", "interval", "rrule")
_SCHEDULE_DETAILS = {"timezone", "day_or", "anchor_date"}
_SCHEDULE_SETTINGS = {"active", "slug", "parameters"}


# What stands between a pack's name and its suffix when it is for one target: packed-env.debian-12-x86_64.tar.
_TARGET = re.compile(r"[a-z]+-[0-9.]+-(x86_64|aarch64)")


class FlowSourceError(Exception):
    """The flow directory or the arguments cannot be deployed; the message is one sentence for the operator."""


@dataclass(frozen=True)
class Deployment:
    """A deployment as the operator wants it; None stands for "leave it as it is"."""

    name: str
    entrypoint: str
    work_pool: str
    parameters: dict[str, Any] | None = None
    schedules: list[dict[str, Any]] | None = None
    tags: list[str] | None = None
    description: str | None = None
    version: str | None = None
    concurrency_limit: int | None = None
    env: dict[str, str] = field(default_factory=dict)
    job_variables: dict[str, Any] | None = None
    """Others than ``env``; which there are is the work pool's to say."""


@dataclass(frozen=True)
class Request:
    """What the operator typed. None where nothing was given."""

    flow_dir: Path
    entrypoint: str | None = None
    work_pool: str | None = None
    deployment_name: str | None = None
    schedule: Any = None
    default_parameters: Any = None
    tags: Any = None
    job_variables: Any = None
    packed_env: str = DEFAULT_PACK


DEFAULT_WORK_POOL = "cpu-pool"


def read_flow(request: Request) -> dict[str, Any]:
    """Return the flow's name, files, digest and deployments. Raises FlowSourceError for anything that cannot be."""
    directory = request.flow_dir
    if not directory.is_dir():
        raise FlowSourceError(f"There is no flow directory {directory} on the controller: check flow_dir.")
    directory = directory.resolve()
    if not _NAME.fullmatch(directory.name):
        raise FlowSourceError(
            f"The flow directory's name {directory.name!r} becomes part of paths on the workers: rename it to letters, "
            "digits, dots, hyphens and underscores."
        )
    deployments = _deployments(request, directory)
    for deployment in deployments:
        check_entrypoint(directory, deployment.entrypoint)
    files = sorted(_code_files(directory, request.packed_env))
    for name in _TAKEN & set(files):
        raise FlowSourceError(f"The flow directory holds {directory / name}, whose name is pag's own: rename it.")
    return {
        "name": directory.name,
        "directory": str(directory),
        "digest": _digest(directory, files),
        "files": files,
        "deployments": [asdict(deployment) for deployment in deployments],
    }


def describes_deployments(directory: Path) -> bool:
    """Return whether a flow directory has a prefect.yaml that names deployments. Raises FlowSourceError."""
    return bool(_read_prefect_yaml(directory / "prefect.yaml"))


def check_entrypoint(directory: Path, entrypoint: str) -> None:
    """Raise FlowSourceError unless *entrypoint* names a function at the top of a file in *directory*."""
    match = _ENTRYPOINT.fullmatch(entrypoint)
    if match is None:
        raise FlowSourceError(
            f"The entrypoint {entrypoint!r} is not of the form file.py:function, for example main.py:my_workflow."
        )
    path = (directory / match["file"]).resolve()
    if not path.is_relative_to(directory):
        raise FlowSourceError(f"The entrypoint's file {match['file']} is outside of the flow directory {directory}.")
    if not path.is_file():
        raise FlowSourceError(f"The entrypoint's file {match['file']} does not exist in {directory}.")
    try:
        module = ast.parse(path.read_bytes(), filename=match["file"])
    except (SyntaxError, ValueError) as error:
        place = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        raise FlowSourceError(f"The entrypoint's file {match['file']}{place} is no valid Python: {message}.") from error
    names = set(_top_level_names(module))
    if match["function"] not in names and "*" not in names:
        raise FlowSourceError(
            f"The entrypoint's file {path.name} in {directory} has no function {match['function']}: check entrypoint."
        )


def packs_by_target(pack: Path) -> dict[str, Path]:
    """Return the packs beside *pack*, and called like it, that are each for one target."""
    found = {}
    for path in pack.parent.iterdir() if pack.parent.is_dir() else ():
        target = path.name.removeprefix(f"{pack.stem}.").removesuffix(pack.suffix)
        if path.name == f"{pack.stem}.{target}{pack.suffix}" and _TARGET.fullmatch(target) and path.is_file():
            found[target] = path
    return found


def parse_schedule(value: Any) -> list[dict[str, Any]]:
    """Return the schedules that the argument ``schedule`` means, as the API has them.

    A text is a cron expression, a recurrence rule (RFC 5545) or a number of seconds; a dictionary has one of ``cron``,
    ``interval`` (seconds) and ``rrule``, and details; ``none`` or an empty text is no schedule. Whether a cron
    expression or a rule is valid is for Prefect to say. Raises FlowSourceError.
    """
    value = _decoded(value)
    # By identity: 0 equals False, and is no way to say that there is none.
    if value is None or value is False or (isinstance(value, str) and value in ("", "none", "None", "off")):
        return []
    if isinstance(value, list):
        return [schedule for entry in value for schedule in parse_schedule(entry)]
    if isinstance(value, bool) or not isinstance(value, str | int | float | dict):
        raise FlowSourceError(f"The schedule {value!r} is neither a cron expression, nor seconds, nor a dictionary.")
    if isinstance(value, int | float):
        return [{"schedule": {"interval": _seconds(value), "timezone": "UTC"}}]
    if isinstance(value, str):
        text = value.strip()
        kind = "rrule" if re.search(r"\bFREQ=", text) else "cron"
        return [{"schedule": {kind: text, "timezone": "UTC"}}]
    return [_schedule_from_dictionary(value)]


def _schedule_from_dictionary(value: dict[str, Any]) -> dict[str, Any]:
    value = {key: entry for key, entry in value.items() if entry is not None}
    kinds = [kind for kind in _SCHEDULE_KINDS if kind in value]
    unknown = sorted(set(value) - set(_SCHEDULE_KINDS) - _SCHEDULE_DETAILS - _SCHEDULE_SETTINGS)
    if len(kinds) != 1 or unknown:
        problem = f"does not know {', '.join(unknown)}" if unknown else "needs exactly one of cron, interval and rrule"
        raise FlowSourceError(f"The schedule {json.dumps(value, default=str)} cannot be used: a schedule {problem}.")
    schedule = {key: entry for key, entry in value.items() if key in _SCHEDULE_DETAILS or key in _SCHEDULE_KINDS}
    schedule.setdefault("timezone", "UTC")
    if "interval" in schedule:
        schedule["interval"] = _seconds(schedule["interval"])
    if "anchor_date" in schedule:
        schedule["anchor_date"] = str(schedule["anchor_date"])
    settings = {key: entry for key, entry in value.items() if key in _SCHEDULE_SETTINGS}
    return {"schedule": schedule} | settings


def _seconds(value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if seconds <= 0:
        raise FlowSourceError(f"The schedule's interval {value!r} is no positive number of seconds.")
    return seconds


def _deployments(request: Request, directory: Path) -> list[Deployment]:
    """Return what to deploy: the arguments, over what a prefect.yaml in *directory* says."""
    described = _read_prefect_yaml(directory / "prefect.yaml")
    chosen = [
        deployment
        for deployment in described
        if request.entrypoint in (None, deployment["entrypoint"])
        and request.deployment_name in (None, deployment["name"])
    ]
    if not chosen:
        if request.entrypoint is None:
            where = f"no deployment {request.deployment_name}" if described else "no deployments"
            raise FlowSourceError(
                f"Say which function to deploy with -e entrypoint=FILE.py:FUNCTION: {directory} has {where} in a "
                "prefect.yaml."
            )
        chosen = [{"entrypoint": request.entrypoint}]
    given = _given(request)
    if len(chosen) > 1 and "name" in given:
        raise FlowSourceError("deployment_name names several deployments of prefect.yaml: give entrypoint as well.")
    deployments = []
    for described_settings in chosen:
        settings = {"work_pool": DEFAULT_WORK_POOL} | described_settings | given
        settings.setdefault("name", settings["entrypoint"].rpartition(":")[2])
        if not _NAME.fullmatch(settings["name"]):
            raise FlowSourceError(
                f"The deployment's name {settings['name']!r} becomes part of paths: use letters, digits, dots, hyphens "
                "and underscores."
            )
        deployments.append(Deployment(**settings))
    names = [deployment.name for deployment in deployments]
    if len(set(names)) != len(names):
        raise FlowSourceError(f"{directory / 'prefect.yaml'} has two deployments of one name: rename one.")
    return deployments


def _given(request: Request) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if request.entrypoint is not None:
        given["entrypoint"] = request.entrypoint
    if request.work_pool is not None:
        given["work_pool"] = request.work_pool
    if request.deployment_name is not None:
        given["name"] = request.deployment_name
    if request.schedule is not None:
        given["schedules"] = parse_schedule(request.schedule)
    if request.default_parameters is not None:
        given["parameters"] = _dictionary(request.default_parameters, "default_parameters", {"n": 3})
    if request.tags is not None:
        given["tags"] = _words(request.tags)
    if request.job_variables is not None:
        variables = _dictionary(request.job_variables, "job_variables", {"gpus": 2})
        given |= _read_job_variables(variables, "The argument job_variables has")
    return given


def _decoded(value: Any) -> Any:
    """Return what a JSON text stands for; other texts and values as they are."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _dictionary(value: Any, name: str, example: dict[str, Any]) -> dict[str, Any]:
    decoded = _decoded(value) or {}
    if not isinstance(decoded, dict):
        raise FlowSourceError(
            f"{name} must be a dictionary, for example -e '{json.dumps({name: example})}', not {value!r}."
        )
    return decoded


def _read_job_variables(variables: dict[str, Any], whose: str) -> dict[str, Any]:
    """Return what job variables say, as settings of a Deployment."""
    own = [f"job_variables.{key}" for key in sorted(variables) if key in _OWN_VARIABLES]
    if own:
        raise FlowSourceError(f"{whose} {', '.join(own)}, which this playbook sets itself: remove it.")
    gpus = variables.get("gpus", 0)
    if isinstance(gpus, bool) or not isinstance(gpus, int) or gpus < 0:
        raise FlowSourceError(f"{whose} a gpus that is no whole number from 0 on: {gpus!r}.")
    settings: dict[str, Any] = {}
    if variables.get("env"):
        settings["env"] = {str(key): str(value) for key, value in variables["env"].items()}
    others = {key: value for key, value in variables.items() if key != "env"}
    try:
        read_limits({name: others[name] for name in LIMITS if others.get(name) not in (None, "")})
    except LimitError as error:
        raise FlowSourceError(f"{whose} a limit that cannot be: {error}") from error
    return settings | ({"job_variables": others} if others or not variables else {})


def _words(value: Any) -> list[str]:
    decoded = _decoded(value)
    if isinstance(decoded, str):
        decoded = [word.strip() for word in decoded.split(",") if word.strip()]
    if not isinstance(decoded, list):
        decoded = [decoded]
    return [str(word) for word in decoded]


def _read_prefect_yaml(path: Path) -> list[dict[str, Any]]:
    """Return the deployments of a prefect.yaml as settings of Deployment; none when there is no such file."""
    if not path.is_file():
        return []
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = getattr(error, "problem_mark", None)
        raise FlowSourceError(f"{path} is no valid YAML{f', line {place.line + 1}' if place else ''}.") from error
    if document is None:
        return []
    if not isinstance(document, dict) or not isinstance(document.get("deployments") or [], list):
        raise FlowSourceError(f"{path} has no list of deployments.")
    _refuse_steps(path, document, "the file")
    return [_read_deployment(path, entry) for entry in document.get("deployments") or []]


def _refuse_steps(path: Path, settings: dict[str, Any], whose: str) -> None:
    for key in ("build", "push", "triggers", "sla"):
        if settings.get(key):
            raise FlowSourceError(
                f"{path} has {key} steps in {whose}, which cannot be run in this cluster: remove {key}, the packages "
                "and code travel with this playbook."
            )
    for step in settings.get("pull") or []:
        # Where the code is, the playbook knows better; any other step would fetch it from somewhere.
        if not isinstance(step, dict) or set(step) != {"prefect.deployments.steps.set_working_directory"}:
            name = next(iter(step)) if isinstance(step, dict) and step else step
            raise FlowSourceError(
                f"{path} has the pull step {name} in {whose}, which cannot be run in this cluster: remove it, the code "
                "travels with this playbook."
            )


def _read_deployment(path: Path, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise FlowSourceError(f"{path} has a deployment without a name.")
    name = entry["name"]
    whose = f"the deployment {name}"
    _refuse_steps(path, entry, whose)
    entry = {key: value for key, value in entry.items() if value not in (None, [], {})}
    unknown = sorted(set(entry) - _HONOURED - {"build", "push", "pull", "triggers", "sla"})
    if unknown:
        raise FlowSourceError(
            f"{path} has {', '.join(unknown)} in {whose}, which this playbook does not honour: remove it."
        )
    if "{{" in json.dumps(entry, default=str):
        raise FlowSourceError(f"{path} has a template ({{{{ }}}}) in {whose}, which this playbook does not fill in.")
    if not isinstance(entry.get("entrypoint"), str):
        raise FlowSourceError(f"{path} has no entrypoint in {whose}.")
    settings: dict[str, Any] = {"name": name, "entrypoint": entry["entrypoint"].removeprefix("./")}
    settings |= {key: str(entry[key]) for key in ("description", "version") if key in entry}
    if "parameters" in entry:
        settings["parameters"] = _dictionary(entry["parameters"], "parameters", {"n": 3})
    if "tags" in entry:
        settings["tags"] = _words(entry["tags"])
    schedules = entry.get("schedules", entry.get("schedule"))
    if schedules is not None:
        settings["schedules"] = parse_schedule(schedules)
    if "concurrency_limit" in entry:
        limit = entry["concurrency_limit"]
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise FlowSourceError(f"{path} has a concurrency_limit in {whose} that is no positive number: {limit!r}.")
        settings["concurrency_limit"] = limit
    return settings | _read_work_pool(path, entry.get("work_pool", {}), whose)


def _read_work_pool(path: Path, work_pool: Any, whose: str) -> dict[str, Any]:
    if not isinstance(work_pool, dict):
        raise FlowSourceError(f"{path} has a work_pool in {whose} that is no dictionary.")
    work_pool = {key: value for key, value in work_pool.items() if value not in (None, {})}
    settings = _read_job_variables(work_pool.pop("job_variables", None) or {"env": {}}, f"{path} has, in {whose},")
    if "name" in work_pool:
        settings["work_pool"] = str(work_pool.pop("name"))
    if work_pool.get("work_queue_name") == "default":
        del work_pool["work_queue_name"]
    unknown = [f"work_pool.{key}" for key in sorted(work_pool)]
    if unknown:
        raise FlowSourceError(
            f"{path} has {', '.join(unknown)} in {whose}, which this playbook does not honour: remove it."
        )
    return settings


def _top_level_names(module: ast.Module) -> Iterator[str]:
    """Yield the names that a module binds without running it, ``*`` for what it imports from elsewhere wholesale."""
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom | ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name
    for statement in module.body:
        for node in ast.walk(statement) if isinstance(statement, ast.If | ast.Try | ast.With) else [statement]:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield node.name
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (target.id for target in targets if isinstance(target, ast.Name))


def _code_files(directory: Path, packed_env: str) -> Iterator[str]:
    """Yield the files that travel, relative to *directory*. Raises FlowSourceError for links and special files."""
    named = [directory / packed_env, directory / DEFAULT_PACK]
    packs = {pack.resolve() for name in named for pack in (name, *packs_by_target(name).values())}
    # What an interrupted packing leaves.
    packs |= {pack.with_name(f".{pack.name}.part") for pack in packs}
    for parent, directories, names in os.walk(directory):
        directories[:] = sorted(set(directories) - _IGNORED_DIRECTORIES)
        for name in [*names, *(entry for entry in directories if (Path(parent) / entry).is_symlink())]:
            path = Path(parent) / name
            if path.resolve() in packs or name == DEFAULT_PACK or name.endswith(_IGNORED_SUFFIXES):
                continue
            if path.is_symlink() or not path.is_file():
                raise FlowSourceError(
                    f"The flow directory holds {path}, which is no ordinary file: replace it by a copy."
                )
            yield path.relative_to(directory).as_posix()


def _digest(directory: Path, files: list[str]) -> str:
    """Return the SHA-256 over names and contents of the files that travel."""
    digest = hashlib.sha256()
    for name in files:
        content = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        digest.update(f"{content}  {name}\n".encode())
    return digest.hexdigest()
