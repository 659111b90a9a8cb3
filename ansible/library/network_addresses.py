#!/usr/bin/python
"""Ansible module: the addresses that hosts have, as the machine sees them that the module runs on."""

from __future__ import annotations

DOCUMENTATION = r"""
module: network_addresses
short_description: Say which addresses hosts have, and which one this machine uses to reach a host
description:
  - Asks the resolver for the addresses of O(names), and the routing table for the address that this machine has
    towards O(towards). Sends nothing to them, and changes nothing.
options:
  names:
    description: Names or addresses of hosts. Each must have an address.
    type: list
    elements: str
    default: []
  towards:
    description: Name or address of a host. The empty string asks nothing.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: pag
"""

EXAMPLES = r"""
- name: Ask the controller who the cluster's nodes are
  network_addresses:
    names: [pag-server, pag-worker-1, 10.11.12.13]
    towards: pag-server
  delegate_to: localhost
  register: __firewall_cluster
"""

RETURN = r"""
addresses:
  description: The hosts' addresses and this machine's own towards the host, IPv4 and IPv6, sorted, each once.
  type: list
  elements: str
  returned: always
"""

import ipaddress
import socket

from ansible.module_utils.basic import AnsibleModule


class AddressError(Exception):
    """A host has no address; the message is one sentence for the operator."""


def addresses_of(name: str) -> set[str]:
    """Return the addresses of a host, without loopback and link-local ones."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None, proto=socket.IPPROTO_TCP)}
    except socket.gaierror as error:
        raise AddressError(
            f"{name} has no address on {socket.gethostname()} ({error.strerror}): make the name known there, or give "
            "the host an ansible_host in the inventory."
        ) from error
    return {address for address in found if _is_of_a_network(address)}


def source_towards(name: str) -> set[str]:
    """Return the addresses with which this machine reaches a host; what is not routed is left out."""
    sources = set()
    for address in addresses_of(name):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as endpoint:
            try:
                # Connecting a datagram socket asks the routing table, and sends nothing.
                endpoint.connect((address, 9))
            except OSError:
                continue
            sources.add(str(endpoint.getsockname()[0]))
    return {address for address in sources if _is_of_a_network(address)}


def _is_of_a_network(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return not (parsed.is_loopback or parsed.is_link_local)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "default": []},
            "towards": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    try:
        found = set().union(*(addresses_of(name) for name in module.params["names"]))
        if module.params["towards"]:
            found |= source_towards(module.params["towards"])
    except AddressError as error:
        module.fail_json(msg=str(error))
    ordered = sorted(map(ipaddress.ip_address, found), key=lambda address: (address.version, int(address)))
    module.exit_json(changed=False, addresses=[str(address) for address in ordered])


if __name__ == "__main__":
    main()
