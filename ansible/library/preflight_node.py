#!/usr/bin/python
"""Ansible module: what a node is, and what keeps it from joining the cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: preflight_node
short_description: Check a node before anything is changed
description:
  - Collects the facts that the roles need, and holds them against what the bundle and the inventory demand.
  - Changes nothing and does not fail on what it finds, so that all problems of all nodes can be reported at once.
options:
  root:
    description: Where the bundle's files are on the node.
    type: path
    required: true
  targets:
    description: Names of the targets that the bundle was built for.
    type: list
    elements: str
    required: true
  free_space:
    description: Free space demanded in MB, by directory. Directories on one file system add up.
    type: dict
    default: {}
  controller_time:
    description: Time on the controller, in seconds since 1970.
    type: float
    required: true
  max_time_skew:
    description: By how many seconds the node's clock may differ from the controller's.
    type: float
    required: true
  resolve:
    description: Host names or addresses that the node must be able to resolve.
    type: list
    elements: str
    default: []
  ports:
    description: TCP ports that must be free, each with the patterns of the systemd units that may already listen there.
    type: dict
    default: {}
  minimum_memory:
    description: Memory demanded, in MB.
    type: int
    default: 0
  recommended_memory:
    description: Memory below which there is a warning, in MB.
    type: int
    default: 0
  recommended_processors:
    description: Number of processors below which there is a warning.
    type: int
    default: 1
  gpus:
    description: >-
      The GPUs that flows may use, by their numbers or UUIDs. Those that a node with GPUs does not have are a problem;
      where none can be found at all, there is a warning.
    type: list
    elements: str
    default: []
  systemd:
    description: Whether systemd must be the first process.
    type: bool
    default: true
  measure:
    description: Whether to measure how long the disk takes, a fraction of a second.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
author:
  - The pag developers
"""

EXAMPLES = r"""
- name: Check the node
  preflight_node:
    root: /opt/pag
    targets: [debian-12-x86_64]
    free_space: {/opt: 2000}
    controller_time: "{{ now(utc=true).timestamp() }}"
    max_time_skew: 30
    resolve: [pag-server]
    ports: {"4200": [nginx.service]}
"""

RETURN = r"""
problems:
  description: What keeps the node from joining, one sentence each.
  type: list
  elements: str
  returned: success
warnings_found:
  description: What will work worse than expected, one sentence each.
  type: list
  elements: str
  returned: success
skew:
  description: By how many seconds the node's clock is ahead of the controller's.
  type: float
  returned: success
ansible_facts:
  description: Facts about the node.
  returned: success
  type: complex
  contains:
    pag_node:
      description: target, python, hostname, machine_id, toolkit (its directory's name), processors, memory (MB),
        systemd, cgroup, write_milliseconds.
      type: dict
"""

import fnmatch
import os
import platform
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils import preflight_machine as machine
from ansible.module_utils.gpu_inventory import check_gpus, inventory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_MEGABYTE = 1_000_000
# The distributions' own Python by release; environments of the kind "system" are made for it.
_PYTHON = {"debian-12": "3.11", "debian-13": "3.13", "ubuntu-22.04": "3.10", "ubuntu-24.04": "3.12"}
_LISTEN = "0A"


def node_facts(root: Path, os_release: Path = Path("/etc/os-release")) -> dict[str, Any]:
    """Return what this node is."""
    lines = os_release.read_text(encoding="utf-8").splitlines()
    release = dict(line.split("=", 1) for line in lines if "=" in line)
    identifier, version = (release.get(key, "").strip("\"'") for key in ("ID", "VERSION_ID"))
    toolkit = root / "toolkit" / "current"
    machine_id = Path("/etc/machine-id")
    return {
        "target": f"{identifier}-{version}-{platform.machine()}",
        "python": ".".join(platform.python_version_tuple()[:2]),
        "hostname": socket.gethostname(),
        "machine_id": machine_id.read_text(encoding="ascii").strip() if machine_id.is_file() else "",
        "toolkit": str(toolkit.readlink()) if toolkit.is_symlink() else "",
    }


def check_system(facts: Mapping[str, Any], targets: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the operating system and its Python."""
    if facts["target"] not in targets:
        yield (
            f"runs {facts['target']}, which the bundle was not built for ({', '.join(targets)}): "
            "build the bundle with --target."
        )
    expected = _PYTHON.get(facts["target"].rpartition("-")[0])
    if expected is not None and facts["python"] != expected:
        yield (
            f"/usr/bin/python3 is version {facts['python']} instead of the distribution's {expected}: "
            "restore the distribution's package python3."
        )


def check_space(demanded: Mapping[str, Any]) -> Iterator[str]:
    """Yield the file systems on which less is free than *demanded* (MB by directory)."""
    by_device: dict[int, tuple[str, int]] = {}
    for directory, megabytes in demanded.items():
        path = Path(directory)
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
        device = existing.stat().st_dev
        name, sum_so_far = by_device.get(device, (str(existing), 0))
        by_device[device] = (name, sum_so_far + int(megabytes))
    for name, megabytes in by_device.values():
        free = shutil.disk_usage(name).free // _MEGABYTE
        if free < megabytes:
            yield f"has {free} MB free below {name}, {megabytes} MB are needed: make room there."


def check_time(node_time: float, controller_time: float, limit: float) -> Iterator[str]:
    """Yield a problem when the clocks (seconds since 1970) differ by more than *limit* seconds."""
    skew = node_time - controller_time
    if abs(skew) > limit:
        direction = "ahead of" if skew > 0 else "behind"
        yield (
            f"its clock is {abs(skew):.0f} s {direction} the controller's (at most {limit:.0f} s): "
            "set it, with the same time server for all nodes."
        )


def check_names(names: Sequence[str]) -> Iterator[str]:
    """Yield the host names that this node cannot resolve."""
    for name in names:
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            yield (
                f"cannot resolve the name {name}: add it to /etc/hosts or the name server, "
                "or set ansible_host to its address in the inventory."
            )


def check_ports(ports: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the TCP ports on which something listens that is none of the units allowed."""
    listeners = _listeners()
    wanted = {inode: port for port in ports for inode in listeners.get(int(port), ())}
    owners = _units_of_sockets(set(wanted)) if wanted else {}
    for inode, port in sorted(wanted.items(), key=lambda item: int(item[1])):
        unit = owners.get(inode, "an unknown process")
        if not any(fnmatch.fnmatch(unit, pattern) for pattern in ports[port]):
            yield f"port {port} is taken by {unit}: stop it, or move it to another port."


def _listeners(tables: Sequence[Path] = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))) -> dict[int, set[str]]:
    """Return the inodes of listening sockets by port, from the kernel's tables (proc(5))."""
    listeners: dict[int, set[str]] = {}
    for table in tables:
        if not table.is_file():
            continue
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            columns = line.split()
            if columns[3] == _LISTEN:
                listeners.setdefault(int(columns[1].rpartition(":")[2], 16), set()).add(columns[9])
    return listeners


def _units_of_sockets(inodes: set[str]) -> dict[str, str]:
    """Return the systemd unit, or else the program, that holds each socket."""
    owners: dict[str, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [str(descriptor.readlink()) for descriptor in (process / "fd").iterdir()]
            held = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")} & inodes
            if not held:
                continue
            groups = (process / "cgroup").read_text(encoding="ascii").split()
            name = (process / "comm").read_text(encoding="utf-8").strip()
        except OSError:
            continue  # it ended meanwhile
        parts = [part for group in groups for part in group.split("/") if part.endswith((".service", ".socket"))]
        for inode in held:
            # A socket that systemd holds for a service belongs to PID 1 as well: any unit says more.
            if inode not in owners or parts:
                owners[inode] = parts[-1] if parts else name
    return owners


def _sshd_configuration(module: AnsibleModule) -> str:
    """Return what sshd uses; empty where that cannot be asked."""
    sshd = module.get_bin_path("sshd", opt_dirs=["/usr/sbin"])
    return str(module.run_command([sshd, "-T"])[1]) if sshd and os.geteuid() == 0 else ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "targets": {"type": "list", "elements": "str", "required": True},
            "free_space": {"type": "dict", "default": {}},
            "controller_time": {"type": "float", "required": True},
            "max_time_skew": {"type": "float", "required": True},
            "resolve": {"type": "list", "elements": "str", "default": []},
            "ports": {"type": "dict", "default": {}},
            "minimum_memory": {"type": "int", "default": 0},
            "recommended_memory": {"type": "int", "default": 0},
            "recommended_processors": {"type": "int", "default": 1},
            "gpus": {"type": "list", "elements": "str", "default": []},
            "systemd": {"type": "bool", "default": True},
            "measure": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    now = time.time()
    parameters = module.params
    directories = list(parameters["free_space"])
    # The disk that is written to most: the server's database is below /var, which comes last.
    busiest = directories[-1] if directories else parameters["root"]
    facts = node_facts(Path(parameters["root"]))
    facts |= machine.machine_facts(Path(busiest), measure=parameters["measure"])
    gpus = inventory() if parameters["gpus"] else {"devices": [], "gpus": [], "amd": 0}
    sizes = list(
        machine.check_size(
            facts, parameters["minimum_memory"], parameters["recommended_memory"], parameters["recommended_processors"]
        )
    )
    problems = [
        *check_system(facts, parameters["targets"]),
        *(sentence for sentence, is_problem in sizes if is_problem),
        *check_space(parameters["free_space"]),
        *machine.check_disks(directories),
        *(machine.check_systemd(facts) if parameters["systemd"] else ()),
        *machine.check_locale(),
        *check_time(now, parameters["controller_time"], parameters["max_time_skew"]),
        *check_names(parameters["resolve"]),
        *check_ports(parameters["ports"]),
        *check_gpus(parameters["gpus"], gpus),
    ]
    if os.geteuid() != 0:
        problems.append("ansible_user cannot become root: allow it sudo without a password.")
    warnings = [
        *(sentence for sentence, is_problem in sizes if not is_problem),
        *machine.warn_of_slow_disk(facts, busiest),
        *machine.warn_of_limits(),
        *machine.warn_of_umask(),
        *machine.warn_of_security_modules(),
        *machine.warn_of_gpus(parameters["gpus"], gpus),
        *machine.warn_of_ssh(_sshd_configuration(module)),
    ]
    module.exit_json(
        changed=False,
        problems=problems,
        # "warnings" is Ansible's own, and would be printed for each node apart.
        warnings_found=warnings,
        skew=round(now - parameters["controller_time"], 1),
        ansible_facts={"pag_node": facts},
    )


if __name__ == "__main__":
    main()
