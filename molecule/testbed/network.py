"""A cluster's network: a bridge that leads nowhere, and a counter of what tried to leave."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from dataclasses import dataclass

from process import TestbedError, run

# Addresses for networks of tests (RFC 2544), so no site's own are hidden; and a unique local prefix (RFC 4193).
_POOL = ipaddress.IPv4Network("198.18.0.0/16")
_PREFIX = "fd70:6167:2d6e"


@dataclass(frozen=True)
class Network:
    """The addresses of one cluster, and its bridge on the host."""

    cluster: str
    number: int
    """Which part of the pool."""

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        """The cluster's IPv4 addresses."""
        return ipaddress.IPv4Network((int(_POOL.network_address) + self.number * 256, 24))

    @property
    def subnet6(self) -> ipaddress.IPv6Network:
        """The cluster's IPv6 addresses."""
        return ipaddress.IPv6Network(f"{_PREFIX}:{self.number:x}::/64")

    @property
    def bridge(self) -> str:
        """Name of the bridge on the host."""
        return bridge_name(self.cluster)

    @property
    def table(self) -> str:
        """Name of the nftables table on the host."""
        return bridge_name(self.cluster)

    def address(self, number: int) -> str:
        """Return the IPv4 address of machine *number*; 1 is the bridge."""
        return str(self.subnet[number])

    def address6(self, number: int) -> str:
        """Return the IPv6 address of machine *number*; 1 is the bridge."""
        return str(self.subnet6[number])

    def create(self) -> None:
        """Make the bridge and the counter, the counter first so that nothing goes uncounted."""
        run(["nft", "--file", "-"], stdin=self._rules())
        run(["ip", "link", "add", self.bridge, "type", "bridge"])
        run(["ip", "address", "add", f"{self.address(1)}/24", "dev", self.bridge])
        # A host without IPv6 cannot be reached over it either.
        run(["ip", "address", "add", f"{self.address6(1)}/64", "dev", self.bridge, "nodad"], check=False)
        run(["ip", "link", "set", self.bridge, "up"])

    def _rules(self) -> str:
        """Return the rules: what is not for the subnet, and what asks something of the bridge, is counted and dropped.

        Before that, who wanted what is noted down, for the one who has to find out why. Multicast of link scope is how
        addresses are found and cannot leave. Protocol 58 is ICMPv6, which not every host can name. Answers to
        connections that the host opened (SSH) pass.
        """
        from_machines = f'iifname "{self.bridge}"'
        return f"""
table inet {self.table} {{
  counter escapes {{ }}
  set seen {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; flags dynamic; size 1024; }}
  set seen6 {{ type ipv6_addr . ipv6_addr . inet_proto . inet_service; flags dynamic; size 1024; }}
  chain inbound {{
    type filter hook prerouting priority -150; policy accept;
    {from_machines} ct state established,related accept
    {from_machines} ip daddr 224.0.0.0/24 accept
    {from_machines} ip daddr {self.address(1)} icmp type {{ echo-request, echo-reply }} accept
    {from_machines} ip daddr {self.subnet} ip daddr != {self.address(1)} accept
    {from_machines} ip6 daddr ff02::/16 accept
    {from_machines} ip6 daddr {{ fe80::/10, {self.address6(1)} }} meta l4proto 58 accept
    {from_machines} ip6 daddr {self.subnet6} ip6 daddr != {self.address6(1)} accept
    {from_machines} meta nfproto ipv4 update @seen {{ ip saddr . ip daddr . meta l4proto . th dport }}
    {from_machines} meta nfproto ipv6 update @seen6 {{ ip6 saddr . ip6 daddr . meta l4proto . th dport }}
    {from_machines} counter name escapes drop
  }}
}}
"""

    def cut(self, one: int, other: int) -> None:
        """Let nothing pass between two machines (their numbers), in both directions, until it is mended.

        The rules are in a table of their own: what is dropped here is no attempt to leave.
        """
        rules = [f"add table bridge {self.table}"]
        rules.append(f"add chain bridge {self.table} cut {{ type filter hook forward priority 0; }}")
        for source, target in ((one, other), (other, one)):
            for family, address in (("ip", self.address), ("ip6", self.address6)):
                rules.append(
                    f"add rule bridge {self.table} cut "
                    f"{family} saddr {address(source)} {family} daddr {address(target)} counter drop"
                )
        run(["nft", "--file", "-"], stdin="\n".join(rules) + "\n")

    def mend(self) -> None:
        """Let everything pass again between all machines; where nothing was cut, that is no error."""
        run(["nft", "delete", "table", "bridge", self.table], check=False)

    def received(self) -> int:
        """Return how many bytes the machines that run now have received over the network."""
        ports = json.loads(run(["ip", "-json", "-statistics", "link", "show", "master", self.bridge]).stdout)
        return sum(int(port["stats64"]["tx"]["bytes"]) for port in ports)

    def escapes(self) -> int:
        """Return how many packets tried to leave since the network was made."""
        listing = json.loads(run(["nft", "--json", "list", "counter", "inet", self.table, "escapes"]).stdout)
        for entry in listing["nftables"]:
            if "counter" in entry:
                return int(entry["counter"]["packets"])
        raise TestbedError(f"The counter of {self.cluster} is gone, so nothing can be said about attempts to leave.")

    def escaped(self) -> list[str]:
        """Return who tried to reach what, for people to read."""
        lines = []
        for name in ("seen", "seen6"):
            listing = json.loads(run(["nft", "--json", "list", "set", "inet", self.table, name]).stdout)
            for entry in listing["nftables"]:
                for element in entry.get("set", {}).get("elem", []):
                    source, destination, protocol, port = element["concat"]
                    lines.append(f"{source} -> {destination} {protocol} port {port}")
        return lines


def bridge_name(cluster: str) -> str:
    """Return the name of the cluster's bridge and table; interfaces' names have at most 15 characters."""
    name = f"pag-{cluster}"
    return name if len(name) <= 15 else f"pag-{hashlib.sha256(cluster.encode()).hexdigest()[:11]}"


def choose(cluster: str, taken: set[int]) -> Network:
    """Return a network that neither other clusters (their numbers are *taken*) nor the host's routes use."""
    routes = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]).stdout)
    used = [
        ipaddress.ip_network(route["dst"], strict=False)
        for route in routes
        if route["dst"] != "default" and route.get("type") not in {"broadcast", "multicast"}
    ]
    for number in range(256):
        network = Network(cluster, number)
        if number not in taken and not any(network.subnet.overlaps(other) for other in used):
            return network
    raise TestbedError(f"All of {_POOL} is in use: take a cluster down.")


def remove(cluster: str) -> None:
    """Remove the bridge and the table of *cluster*; what is not there is no error."""
    name = bridge_name(cluster)
    # The kernel removes a dead machine's link when it comes to it; another cluster may want the name before that.
    ports = run(["ip", "-json", "link", "show", "master", name], check=False).stdout
    for port in json.loads(ports or "[]"):
        run(["ip", "link", "delete", port["ifname"]], check=False)
    run(["ip", "link", "delete", name], check=False)
    for family in ("inet", "bridge"):
        run(["nft", "delete", "table", family, name], check=False)
    if run(["ip", "link", "show", name], check=False).returncode == 0:
        raise TestbedError(f"The bridge {name} could not be removed: see ip link show {name}.")
