"""The nodes' packages are upgraded from the mirror, one node after the other, without a restart of what runs flows.

The updates are made here, of packages that the bundle brought, so that there are some whatever the archive has today;
``acl`` becomes newer and asks for a reboot, ``rsync`` is newer and cannot be installed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from cluster_site import SERVER
from guide import CONTROLLER
from machines import Machines
from testinfra.host import Host

On = Callable[[str], Host]

ANSIBLE = "pag-software-bundle/ansible"
ADDED = "+pag1"
"""What the newer version has at its end."""

MAKE = r"""
set -eu
for directory in /opt/pag/mirror/apt/*/; do
    cd $directory
    cp Packages /var/tmp/pag-test-Packages.$(basename $directory)
    for name in acl rsync; do
        tree=$(mktemp -d)
        dpkg-deb -R $(ls ${{name}}_*.deb | tail -n 1) $tree
        sed -i 's/^Version: .*/&{added}/' $tree/DEBIAN/control
        if [ $name = rsync ]; then
            sed -i 's/^Depends: /&pag-nowhere, /' $tree/DEBIAN/control
        else
            postinst=$tree/DEBIAN/postinst
            printf '#!/bin/sh\ntouch /run/reboot-required\necho acl > /run/reboot-required.pkgs\n' > $postinst
            chmod 755 $postinst
        fi
        chmod 755 $tree
        file=${{name}}_0-pag-test.deb
        dpkg-deb --root-owner-group --build $tree $file > /dev/null
        rm -r $tree
        {{
            echo
            dpkg-deb --field $file
            echo "Filename: $file"
            echo "Size: $(stat -c %s $file)"
            echo "SHA256: $(sha256sum $file | cut -d ' ' -f 1)"
        }} >> Packages
    done
done
"""

REMOVE = """
set -eu
for directory in /opt/pag/mirror/apt/*/; do
    mv /var/tmp/pag-test-Packages.$(basename $directory) $directory/Packages
    rm -f $directory/*_0-pag-test.deb*
done
"""

DOWNGRADE = """
rm -f /run/reboot-required /run/reboot-required.pkgs
cd /opt/pag/mirror/apt/*/ && rm -f ./*_0-pag-test.deb
dpkg --force-downgrade -i $(ls acl_*.deb | tail -n 1)
"""


@pytest.fixture(scope="module")
def nodes(machines: Machines) -> list[str]:
    """The machines of the inventory, in the order of the playbook's groups."""
    listed = machines.ssh(CONTROLLER, f"cat {ANSIBLE}/inventory.yml")
    return [SERVER, *sorted(set(re.findall(r"pag-worker-[\w-]+", listed)))]


@pytest.fixture(scope="module")
def updates(on: On, nodes: list[str]) -> Iterator[None]:
    """Newer packages in the mirror of the controller; afterwards the nodes have the bundle's again."""
    made = on(CONTROLLER).run(MAKE.format(added=ADDED))
    assert made.rc == 0, made.stderr
    yield
    assert on(CONTROLLER).run(REMOVE).rc == 0
    for name in nodes:
        assert on(name).run(DOWNGRADE).rc == 0, name


def play(machines: Machines, *options: str) -> tuple[int, str]:
    """Run the playbook as an operator does; return its exit code and what it printed, white space made one."""
    command = f"cd {ANSIBLE} && ansible-playbook -i inventory.yml system-updates.yml {' '.join(options)}"
    printed, _, status = machines.ssh(CONTROLLER, f"{command} 2>&1; echo status=$?", check=False).rpartition("status=")
    return int(status), " ".join(printed.split())


def changed(printed: str) -> dict[str, int]:
    return {name: int(number) for name, number in re.findall(r"([\w.-]+) : ok=\d+ changed=(\d+)", printed)}


def version(on: On, name: str) -> str:
    return str(on(name).package("acl").version)


def state(on: On, name: str) -> str:
    """What an upgrade must not touch: the boot, and the process that runs flows."""
    units = "prefect-server.service prefect-worker-cpu.service prefect-worker-gpu.service"
    return str(
        on(name).check_output(f"cat /proc/sys/kernel/random/boot_id; systemctl show -p MainPID,NRestarts {units}")
    )


pytestmark = pytest.mark.usefixtures("updates")


def test_check_says_what_would_be_upgraded(machines: Machines, on: On, nodes: list[str]) -> None:
    before = {name: version(on, name) for name in nodes}
    status, printed = play(machines, "--check")
    assert status == 0, printed
    for name in nodes:
        assert f"acl:amd64 {before[name]} -> {before[name]}{ADDED}" in printed
        assert version(on, name) == before[name]
    assert "packages that would be upgraded: " in printed


def test_a_damaged_file_ends_it_at_the_first_node(machines: Machines, on: On, nodes: list[str]) -> None:
    before = {name: version(on, name) for name in nodes}
    place = f"cd {on(SERVER).check_output('echo /opt/pag/mirror/apt/*/')} &&"
    on(CONTROLLER).check_output(f"{place} cp acl_0-pag-test.deb acl_0-pag-test.deb.kept && echo >> acl_0-pag-test.deb")
    try:
        status, printed = play(machines, "--limit", "'!localhost'")
    finally:
        on(CONTROLLER).check_output(f"{place} mv acl_0-pag-test.deb.kept acl_0-pag-test.deb")
    assert status == 2
    assert "acl_0-pag-test.deb is damaged" in printed
    assert f"{SERVER} could not be upgraded, and no other node was touched after it" in printed
    assert set(changed(printed)) == {SERVER}
    assert {name: version(on, name) for name in nodes} == before


def test_a_node_that_cannot_be_reached_ends_it(machines: Machines) -> None:
    lost = "[prefect_workers_cpu]\npag-lost ansible_host=127.0.0.1 ansible_port=1\n"
    machines.write(CONTROLLER, "lost.ini", lost)
    try:
        status, printed = play(machines, "-i ~/lost.ini", "--limit pag-lost:localhost")
    finally:
        machines.ssh(CONTROLLER, "rm lost.ini")
    assert status != 0
    assert "pag-lost cannot be reached, and no other node was touched after it" in printed
    assert "Ask what would be upgraded" not in printed


def test_every_node_gets_its_updates_and_runs_go_on(machines: Machines, on: On, nodes: list[str]) -> None:
    before = {name: (version(on, name), state(on, name)) for name in nodes}
    status, printed = play(machines)
    assert status == 0, printed
    for name in nodes:
        old, running = before[name]
        assert version(on, name) == f"{old}{ADDED}"
        assert state(on, name) == running, name
        assert changed(printed)[name] >= 1
    assert printed.count("needs a reboot: packages ask for it (") == len(nodes)
    assert "rsync: kept back" in printed
    assert re.search(r"packages upgraded: \d+; needs a reboot, which was not done", printed)


def test_the_second_time_changes_nothing(machines: Machines) -> None:
    status, printed = play(machines)
    assert status == 0, printed
    assert set(changed(printed).values()) == {0}


def test_only_needed_files_travelled(on: On) -> None:
    assert on("pag-worker-1").check_output("cd /opt/pag/mirror/apt/*/ && ls *_0-pag-test.deb") == "acl_0-pag-test.deb"
