"""Virtual machines, as far as they need not run for it; the scenario long-kernel runs one."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest
import virtual
from machine import Machine
from network import Network
from process import TestbedError
from virtual import VirtualMachine, accelerator, hardware_address, machine_in, machine_of

_RELEASE = "virtual-debian-12"


def _machine(directory: Path) -> VirtualMachine:
    machine = machine_of("pag-x", _RELEASE, 10, directory, None)
    assert isinstance(machine, VirtualMachine)
    return machine


def test_what_has_no_kernel_of_its_own_is_no_virtual_machine(tmp_path: Path) -> None:
    assert type(machine_of("pag-x", "debian-12", 10, tmp_path, None)) is Machine


@pytest.mark.parametrize(
    ("flags", "device", "expected"),
    [("fpu vmx sse", True, "kvm"), ("svm", True, "kvm"), ("fpu hypervisor", True, "tcg"), ("fpu vmx", False, "tcg")],
)
def test_kvm_is_used_where_processor_and_device_have_it(
    flags: str, device: bool, expected: str, tmp_path: Path
) -> None:
    processors, kvm = tmp_path / "cpuinfo", tmp_path / "kvm"
    processors.write_text(f"model name\t: X\nflags\t\t: {flags}\n")
    if device:
        kvm.touch()
    assert accelerator(kvm, processors) == expected


def test_a_machine_knows_its_processes_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "boot").mkdir()
    for name in ("vmlinuz-6.1.0-9", "initrd.img-6.1.0-9"):
        (tmp_path / "boot" / name).touch()
    monkeypatch.setattr(virtual.base, "ensure", lambda _: tmp_path)
    first, second = (_machine(tmp_path / name) for name in ("pag-x", "pag-y"))
    first.directory.mkdir()
    command = first.command(Network("test-virtual", 0))
    assert first.is_own(command)
    assert not second.is_own(command)
    assert not Machine("pag-x", "", 0, first.directory).is_own(command)


def test_what_is_to_be_removed_is_known_by_its_disk(tmp_path: Path) -> None:
    assert type(machine_in(tmp_path)) is Machine
    (tmp_path / "disk.ext4").touch()
    assert type(machine_in(tmp_path)) is VirtualMachine


def test_addresses_of_machines_differ_and_are_unicast() -> None:
    found = {hardware_address(f"pag-demo-pag-worker-{number}") for number in range(3)}
    assert len(found) == 3
    assert all(address.startswith("52:54:00:") and len(address) == 17 for address in found)


def test_a_machine_that_has_run_hears_of_no_others(tmp_path: Path) -> None:
    (tmp_path / "disk.ext4").touch()
    with pytest.raises(TestbedError, match="make all of them at once"):
        _machine(tmp_path).write_hosts("")


def test_the_power_button_is_pressed_when_the_emulator_listens(tmp_path: Path) -> None:
    machine = _machine(tmp_path)
    machine.request_stop()  # there is none
    said: list[str] = []

    def emulator(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as stream:
            stream.write('{"QMP": {}}\n')
            stream.flush()
            for line in iter(stream.readline, ""):
                said.append(json.loads(line)["execute"])
                stream.write('{"return": {}}\n')
                stream.flush()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(machine.monitor))
        listener.listen()
        thread = threading.Thread(target=emulator, args=(listener,))
        thread.start()
        machine.request_stop()
        thread.join()
    assert said == ["qmp_capabilities", "system_powerdown"]
