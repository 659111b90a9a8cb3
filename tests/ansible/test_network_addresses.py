"""The addresses that the firewall lets in."""

from __future__ import annotations

import socket
from typing import Any

import network_addresses
import pytest


def _resolver(entries: dict[str, list[str]]) -> Any:
    def resolve(name: str, port: None, proto: int) -> list[tuple[Any, ...]]:
        del port, proto
        if name not in entries:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(0, 0, 0, "", (address, 0)) for address in entries[name]]

    return resolve


def test_loopback_and_link_local_addresses_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ["127.0.1.1", "10.0.0.7", "fe80::1%eth0", "fd00::7", "::1"]
    monkeypatch.setattr(socket, "getaddrinfo", _resolver({"pag-server": found}))
    assert network_addresses.addresses_of("pag-server") == {"10.0.0.7", "fd00::7"}


def test_a_host_without_an_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _resolver({}))
    with pytest.raises(network_addresses.AddressError, match=r"pag-lost has no address on .*ansible_host"):
        network_addresses.addresses_of("pag-lost")
