"""What a machine can say of itself to somebody who helps: each part as a path in an archive and its text, masked.

Standard library only.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils import node_files
from ansible.module_utils.journal import entries, is_of_a_run
from ansible.module_utils.masking import MASK
from ansible.module_utils.node_units import show_units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ansible.module_utils.masking import Masker

# Settings whose values may be seen, unless they look like secrets: those that Prefect and the roles document.
SHOWN_SETTINGS = re.compile(
    r"(?:PREFECT_|PG(?:PORT|HOST)$|DO_NOT_TRACK$|WORKER_(?:ID|GPU_IDS)$|PATH$|HOME$|LANG$|LC_|TZ$|active$)"
)

_COMMAND_SECONDS = 30
_UNIT_PROPERTIES = (
    "Id,LoadState,ActiveState,SubState,Result,UnitFileState,NRestarts,NeedDaemonReload,ActiveEnterTimestamp,"
    "InactiveEnterTimestamp,ExecMainStartTimestamp,ExecMainStatus,ExecMainCode,MainPID,MemoryCurrent,TasksCurrent,"
    "CPUUsageNSec,ConditionResult,FragmentPath,DropInPaths"
)
_COMMANDS = {
    "system/time.txt": ["date", "--utc", "--iso-8601=seconds"],
    "system/kernel.txt": ["uname", "--kernel-release", "--kernel-version", "--machine"],
    "system/disks.txt": ["df", "--portability", "--block-size=M", "--print-type"],
    "system/inodes.txt": ["df", "--portability", "--inodes"],
    "system/addresses.txt": ["ip", "-brief", "address"],
    "system/routes.txt": ["ip", "route"],
    "system/listening.txt": ["ss", "--listening", "--tcp", "--numeric", "--no-header"],
    "system/connections.txt": ["ss", "--summary"],
    "units/failed.txt": ["systemctl", "--no-pager", "--plain", "list-units", "--state=failed"],
    "units/timers.txt": ["systemctl", "--no-pager", "--plain", "list-timers", "--all"],
    "system/journal.txt": ["journalctl", "--disk-usage"],
}
_FILES = {
    "system/os-release.txt": Path("/etc/os-release"),
    "system/memory.txt": Path("/proc/meminfo"),
    "system/load.txt": Path("/proc/loadavg"),
    "system/pressure-memory.txt": Path("/proc/pressure/memory"),
}
_PACKAGES = (
    "postgresql*", "libpq5", "nginx*", "rsync", "acl", "sudo", "openssh-*", "sshpass", "python3", "python3.*",
    "systemd", "libc6", "prometheus-node-exporter", "linux-image-*",
)  # fmt: skip
_LOGS = ("nginx/error.log", "nginx/error.log.1", "postgresql/*.log")
# How many of a worker's lines are looked through for the worker's own.
_WORKER_LINES = 20000
_LINES = 5000
# What requests ask for may be anything.
_QUERY = re.compile(r"\?[^\s\"]+")


class Sources:
    """The parts, and what there is to say of those that could not be had."""

    def __init__(self, masker: Masker, days: int, with_runs: bool) -> None:
        """Take what masks, how many days of logs are wanted, and whether those of flow runs are."""
        self.missing: dict[str, str] = {}
        self.left_out: dict[str, int] = {}
        self._masker = masker
        self._days = days
        self._with_runs = with_runs

    def parts(self, root: Path, home: Path) -> Iterator[tuple[str, str]]:
        """Yield path and masked text of every part of this machine."""
        for path, command in _COMMANDS.items():
            yield from self._part(path, lambda command=command: self._masker.mask(_output(command)))  # type: ignore[misc]
        for path, file in _FILES.items():
            yield from self._part(path, lambda file=file: self._masker.mask(_text(file)))  # type: ignore[misc]
        yield from self._part(
            "system/packages.txt", lambda: _output(["dpkg-query", "--show", *_PACKAGES], codes=(0, 1))
        )
        yield from self._part("system/out-of-memory.txt", self._out_of_memory)
        yield from self._part("versions.json", lambda: _versions(root, home))
        for unit in show_units():
            name = unit["name"]
            yield from self._part(f"units/{name}.txt", lambda name=name: self._unit(name))  # type: ignore[misc]
            yield from self._part(f"journal/{name}.log", lambda name=name: self._journal(name))  # type: ignore[misc]
        yield from self._settings(home)
        yield from self._logs()

    def _part(self, path: str, read: Callable[[], str]) -> Iterator[tuple[str, str]]:
        try:
            yield path, read()
        except FileNotFoundError:
            self.missing[path] = "is not there"
        except subprocess.TimeoutExpired:
            self.missing[path] = "took too long"
        except OSError as error:
            self.missing[path] = self._masker.mask(str(error))

    def _unit(self, name: str) -> str:
        states = _output(["systemctl", "--no-pager", "show", f"--property={_UNIT_PROPERTIES}", name])
        files = _output(["systemctl", "--no-pager", "cat", name], codes=(0, 1))
        return self._masker.mask(states) + "\n" + unit_file(files, self._masker)

    def _newest(self, lines: int, *arguments: str) -> list[dict[str, Any]]:
        """Return the newest entries of the days that are wanted, in order of time."""
        # Without --reverse, --since makes --lines count from the oldest, at least in systemd 252.
        return entries(*arguments, f"--since=-{self._days}d", f"--lines={lines}", "--reverse")[::-1]

    def _journal(self, name: str) -> str:
        lines = _WORKER_LINES if name.startswith("prefect-worker-") else _LINES
        found = self._newest(lines, f"--unit={name}")
        kept = [entry for entry in found if self._with_runs or not is_of_a_run(entry, name)]
        if len(kept) < len(found):
            self.left_out[f"journal/{name}.log"] = len(found) - len(kept)
        text = "".join(f"{_stamp(entry['time'])} {entry['message']}\n" for entry in kept)
        return self._masker.mask(text)

    def _out_of_memory(self) -> str:
        found = self._newest(_LINES, "--dmesg", "--grep=out of memory|oom-kill")
        return self._masker.mask("".join(f"{_stamp(entry['time'])} {entry['message']}\n" for entry in found))

    def _settings(self, home: Path) -> Iterator[tuple[str, str]]:
        for file in [*sorted(Path("/etc/prefect").glob("*.env")), home / ".prefect/profiles.toml"]:
            path = f"settings/{file.name}"
            yield from self._part(
                path,
                lambda file=file: self._masker.settings(_text(file), SHOWN_SETTINGS),  # type: ignore[misc]
            )
        for file in [
            *sorted(Path("/etc/nginx/conf.d").glob("*.conf")),
            *sorted(path for path in Path("/etc/pag").glob("*.conf") if path.name != "login.conf"),
            *sorted(Path("/etc/postgresql").glob("*/*/conf.d/*.conf")),
        ]:
            yield from self._part(f"settings/{file.name}", lambda file=file: self._masker.mask(_text(file)))  # type: ignore[misc]

    def _logs(self) -> Iterator[tuple[str, str]]:
        for file in sorted(file for pattern in _LOGS for file in Path("/var/log").glob(pattern)):
            if time.time() - file.stat().st_mtime > self._days * 86400:
                continue
            path = f"logs/{file.parent.name}-{file.name}"
            yield from self._part(path, lambda file=file: self._masker.mask(without_queries(_tail(file))))  # type: ignore[misc]


def unit_file(text: str, masker: Masker) -> str:
    """Return unit files without the values of variables that are not known to be harmless."""
    # Lines that go on after a backslash are one.
    joined = re.sub(r"\\\n[ \t]*", " ", text)
    lines = []
    for line in joined.splitlines():
        found = re.match(r"\s*Environment\s*=(?P<value>.*)$", line)
        names = re.findall(r"(?:^|[\s\"'])([A-Za-z_]\w*)=", found["value"]) if found else []
        if found and found["value"].strip() and not (names and all(SHOWN_SETTINGS.match(name) for name in names)):
            masker.counts["setting"] += 1
            lines.append(f"Environment={MASK} ({', '.join(names)})")
        else:
            lines.append(line)
    return masker.mask("\n".join(lines) + "\n")


def without_queries(text: str) -> str:
    """Return a web server's log without what requests asked for after a question mark."""
    return _QUERY.sub(f"?{MASK}", text)


def _versions(root: Path, home: Path) -> str:
    def listed(directory: Path, pattern: str) -> list[str]:
        return sorted(path.relative_to(directory).as_posix() for path in directory.glob(pattern))

    packages = listed(home / "pixi-env", "env/lib/python3*/site-packages/*.dist-info")
    return json.dumps(
        {
            "environment": node_files.base_environment(home),
            "packages": [package.rpartition("/")[2].removesuffix(".dist-info") for package in packages],
            "environments": listed(home / "envs", "*/.complete"),
            "flows": listed(home / "flows", "*/*"),
            "toolkits": listed(root / "toolkit", "*"),
            "drained": node_files.drained(Path("/etc/prefect")),
            "backups": node_files.backups(Path("/var/backups/pag"), time.time()),
            "upgrade": node_files.upgrade_state(root / "upgrade"),
        },
        indent=1,
    )


def _output(command: list[str], codes: tuple[int, ...] = (0,)) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_COMMAND_SECONDS)
    if finished.returncode not in codes:
        raise OSError(f"{command[0]} ended with {finished.returncode}: {finished.stderr.strip()[:200]}")
    return finished.stdout


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def _tail(file: Path, limit: int = 2_000_000) -> str:
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(size - limit, 0))
        content = stream.read()
    # The first line may be a piece of one, with a piece of a secret.
    return (content if size <= limit else content.partition(b"\n")[2]).decode("utf-8", "replace")


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
