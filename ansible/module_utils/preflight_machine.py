"""What a machine is like, held against what Prefect needs of it: processors, memory, disks, systemd, GPUs.

Each check yields sentences that go on after the node's name. Problems keep a node from joining; warnings tell of what
will work worse than expected.
"""

from __future__ import annotations

import locale
import os
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_MEGABYTE = 1_000_000
# An environment has some 20,000 files; flows share most of them.
_INODES = 50_000
_BLOCK = 4096
_WRITES = 15
# A disk that takes longer than this to keep a block slows the database, and installing.
_SLOW_MILLISECONDS = 25.0


def existing(path: Path) -> Path:
    """Return *path* or the nearest directory above it that is there."""
    return next(parent for parent in (path, *path.parents) if parent.exists())


def machine_facts(directory: Path, *, measure: bool, proc: Path = Path("/proc")) -> dict[str, Any]:
    """Return processors, memory (MB), versions, and with *measure* the ms to keep a block on *directory*'s disk."""
    memory = re.search(r"^MemTotal: +(\d+) kB$", (proc / "meminfo").read_text(encoding="ascii"), re.MULTILINE)
    return {
        "processors": len(os.sched_getaffinity(0)),
        "memory": int(memory[1]) * 1024 // _MEGABYTE if memory else 0,
        "systemd": _systemd_version(),
        "cgroup": cgroup_version(),
        "write_milliseconds": write_milliseconds(existing(directory)) if measure else None,
    }


def _systemd_version() -> str:
    """Return systemd's version as its library's name has it; empty when another program is the first process."""
    if not Path("/run/systemd/system").is_dir():
        return ""
    directories = [*Path("/usr/lib").glob("*/systemd"), Path("/usr/lib/systemd")]
    names = (name for directory in directories for name in _names(directory))
    versions = [match[1] for name in names if (match := re.fullmatch(r"libsystemd-shared-(\d+).*\.so", name))]
    return versions[0] if versions else "?"


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()] if directory.is_dir() else []


def cgroup_version(root: Path = Path("/sys/fs/cgroup")) -> str:
    """Return ``2``, ``1``, or ``1 and 2`` for a system that has both."""
    if (root / "cgroup.controllers").exists():
        return "2"
    return "1 and 2" if (root / "unified").is_dir() else "1"


def write_milliseconds(directory: Path) -> float | None:
    """Return the median time to write a block to *directory*'s disk and have it kept; None where that cannot be tried.

    The file is nameless as soon as it is there, so that nothing is left of it however this ends.
    """
    times = []
    try:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as stream:
            for _ in range(_WRITES):
                started = time.perf_counter()
                stream.write(b"\0" * _BLOCK)
                os.fsync(stream.fileno())
                times.append(time.perf_counter() - started)
    except OSError:
        return None
    return round(statistics.median(times) * 1000, 1)


def check_size(facts: Mapping[str, Any], minimum: int, recommended: int, processors: int) -> Iterator[tuple[str, bool]]:
    """Yield what is too small, and whether it is a problem: memory in MB, and how many processors are recommended."""
    if facts["memory"] < minimum:
        yield f"has {facts['memory']} MB of memory, {minimum} MB are needed: give it more.", True
    elif facts["memory"] < recommended:
        yield f"has {facts['memory']} MB of memory; {recommended} MB are recommended.", False
    if facts["processors"] < processors:
        yield f"has {facts['processors']} processors; {processors} are recommended.", False


def check_disks(directories: Sequence[str]) -> Iterator[str]:
    """Yield the file systems on which nothing can be installed: read-only, without programs, without free inodes."""
    seen = set()
    for directory in directories:
        path = existing(Path(directory))
        status = os.statvfs(path)
        device = path.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        if status.f_flag & os.ST_RDONLY:
            yield f"{path} is mounted read-only: mount it for writing."
        if status.f_flag & os.ST_NOEXEC:
            yield f"{path} is mounted with noexec, and programs are installed there: mount it without."
        # File systems that make inodes as they need them say 0.
        if status.f_files and status.f_favail < _INODES:
            yield f"has {status.f_favail} free inodes below {path}, {_INODES} are needed: delete files there."


def check_systemd(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield a problem where systemd does not run the services."""
    if not facts["systemd"]:
        yield "its first process is not systemd, which runs the services: boot it with systemd."


def check_locale() -> Iterator[str]:
    """Yield a problem where the database could not be created."""
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    except locale.Error:
        yield "has no locale C.UTF-8, which the database uses: install the distribution's package libc-bin."
    finally:
        locale.setlocale(locale.LC_CTYPE, before)


def warn_of_slow_disk(facts: Mapping[str, Any], directory: str) -> Iterator[str]:
    """Yield a warning where a block takes long to be kept."""
    taken = facts["write_milliseconds"]
    if taken is not None and taken > _SLOW_MILLISECONDS:
        where = existing(Path(directory))
        yield f"takes {taken} ms to keep a block on the disk of {where}: that slows database and installing."


def warn_of_limits(root: Path = Path("/sys/fs/cgroup")) -> Iterator[str]:
    """Yield a warning where limits of memory and processes are accepted and not enforced."""
    if (root / "cgroup.controllers").exists():
        there = (root / "cgroup.controllers").read_text(encoding="ascii").split()
    else:
        # A container may see controllers that were not handed to it.
        there = [name for name in ("memory", "pids") if (root / name).is_dir() and os.access(root / name, os.W_OK)]
    missing = [name for name in ("memory", "pids") if name not in there]
    if missing:
        yield f"cannot enforce limits of {' and '.join(missing)} on services and runs (cgroup {cgroup_version(root)})."


def warn_of_umask() -> Iterator[str]:
    """Yield a warning where what root makes cannot be read by the service user."""
    mask = os.umask(0o022)
    os.umask(mask)
    if mask & 0o055:
        yield f"root's umask is {mask:04o}: files that administrators add may be unreadable for flows."


def warn_of_security_modules(root: Path = Path("/sys/fs/selinux")) -> Iterator[str]:
    """Yield a warning where SELinux is enforced, for which no rules are installed."""
    enforce = root / "enforce"
    if enforce.is_file() and enforce.read_text(encoding="ascii").strip() == "1":
        yield "enforces SELinux, for which this software brings no rules: watch the audit log."


def warn_of_gpus(wanted: Sequence[str], found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a warning where there is no GPU at all, as far as one can see, for those that are *wanted*."""
    if wanted and not (found["devices"] or found["gpus"] or found["amd"]):
        yield f"has no /dev/nvidiaN or /dev/kfd for GPU {', '.join(wanted)} of worker_gpu_ids: look at its driver."


def warn_of_ssh(configuration: str) -> Iterator[str]:
    """Yield a warning where sshd, whose *configuration* ``sshd -T`` prints, lets Ansible have too few sessions."""
    found = re.search(r"^maxsessions (\d+)$", configuration, re.MULTILINE)
    if found and int(found[1]) < 2:
        yield f"its sshd allows {found[1]} sessions per connection (MaxSessions): Ansible is slow with fewer than 2."
