"""`Site`: a host's place in the world. It has an uplink and default routes; behind its router is the internet.

    host                      internet (one namespace: the router, and a server behind it)
    eth0  192.0.2.2/24  ----  eth0  192.0.2.1/24
          2001:db8::2/64            2001:db8::1/64
                              lo    198.51.100.1, 2001:db8:ffff::1

The router sends to the host whatever its guests may have, private addresses too: no test passes only because nobody
knows the way in. Forwarding is off on the host, in every way, until somebody switches it on.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.bed.netns import Host, NetNs
from tests.bed.reach import Place

UPLINK = "eth0"
UPLINK_MAC = "02:00:00:00:00:02"
ROUTER_MAC = "02:00:00:00:00:01"
HOST4, HOST6 = "192.0.2.2", "2001:db8::2"
ROUTER4, ROUTER6 = "192.0.2.1", "2001:db8::1"
SERVER4, SERVER6 = "198.51.100.1", "2001:db8:ffff::1"

_BEHIND_THE_HOST = ("192.0.2.16/28", "203.0.113.0/24", "10.0.0.0/8", "2001:db8:5::/64", "2001:db8:77::/48", "fd00::/8")
"""What the router sends to the host; the first is an exception to what is on its wire, see `Site.by_neighbours`."""


def ip(namespace: NetNs, *commands: str) -> None:
    """Run several `ip` commands at once; subprocess.CalledProcessError, with what it said, for the first that fails."""
    with namespace:
        done = subprocess.run(
            ["ip", "-batch", "-"], input="\n".join(commands), capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, f"{done.stderr}of {commands}"


def sysctl(namespace: NetNs, **values: str | int) -> None:
    """Set values below /proc/sys/net, with `__` for each slash: ipv4__ip_forward=1."""
    with namespace:
        for name, value in values.items():
            Path("/proc/sys/net", name.replace("__", "/")).write_text(str(value))


def _wait_until_local(namespace: NetNs, addresses: tuple[str, ...], seconds: float = 5.0) -> None:
    """Wait for the local routes of IPv6 addresses. The kernel adds them later, even without DAD (addrconf_dad_work)."""
    deadline = time.monotonic() + seconds
    while True:
        routes = namespace.run("ip", "-6", "route", "show", "table", "local").stdout
        if not (missing := [address for address in addresses if f"local {address} " not in routes]):
            return
        assert time.monotonic() < deadline, f"no local route for {missing}"
        time.sleep(0.005)


class Site:
    """Gives `host` its uplink and what lies beyond."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.internet = host.guest("internet")
        host.rtnl.add_veth(UPLINK, "eth0", self.internet.fd, address=UPLINK_MAC)
        sysctl(host, ipv4__ip_forward=0, ipv6__conf__all__forwarding=0, ipv6__conf__eth0__accept_dad=0)
        sysctl(self.internet, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1, ipv6__conf__eth0__accept_dad=0)
        ip(
            self.internet,
            f"link set eth0 address {ROUTER_MAC} up",
            f"address add {ROUTER4}/24 dev eth0",
            f"address add {ROUTER6}/64 dev eth0 nodad",
            f"address add {SERVER4}/32 dev lo",
            f"address add {SERVER6}/128 dev lo nodad",
            f"route add {HOST4} dev eth0 src {SERVER4}",
            f"route add {HOST6} dev eth0 src {SERVER6}",
        )
        ip(
            host,
            f"link set {UPLINK} up",
            f"address add {HOST4}/24 dev {UPLINK}",
            f"address add {HOST6}/64 dev {UPLINK} nodad",
            f"route add default via {ROUTER4}",
            f"route add default via {ROUTER6}",
        )
        ip(self.internet, *(_route(prefix) for prefix in _BEHIND_THE_HOST))
        for namespace, addresses in ((host, (HOST6,)), (self.internet, (ROUTER6, SERVER6))):
            _wait_until_local(namespace, addresses)
        # Who answers for another's address is to come after its owner: the kernel takes up to 0.8 s for that.
        sysctl(host, ipv4__neigh__eth0__proxy_delay=0, ipv6__neigh__eth0__proxy_delay=0)

    def pass_bridged_frames(self, *, through_nftables: bool) -> None:
        """Whether frames between two ports of a bridge pass IP's chains: br_netfilter, a module that others load."""
        if not (switches := Path("/proc/sys/net/bridge")).is_dir():
            assert not through_nftables, "this kernel has no br_netfilter"
            return
        for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
            (switches / name).write_text(str(int(through_nftables)))

    def by_neighbours(self, prefix: str) -> None:
        """Have the router look for these addresses on its wire, by ARP and neighbour discovery."""
        source = SERVER6 if ":" in prefix else SERVER4
        ip(self.internet, f"route replace {prefix} dev eth0 src {source}")

    @property
    def beyond(self) -> Place:
        """The server."""
        return Place("internet", self.internet, SERVER4, SERVER6)

    @property
    def dom0(self) -> Place:
        """The host, by its uplink's address."""
        return Place("dom0", self.host, HOST4, HOST6)

    @staticmethod
    def give(namespace: NetNs, *addresses: str, gateways: tuple[str, ...] = ()) -> None:
        """Configure a guest's eth0 as its administrator would: addresses (192.0.2.7/32) and gateways, on its wire."""
        sysctl(namespace, ipv6__conf__eth0__accept_dad=0)
        with_nodad = (f"{address} nodad" if ":" in address else address for address in addresses)
        ip(
            namespace,
            "link set eth0 up",
            *(f"address add {address} dev eth0" for address in with_nodad),
            *(f"route replace default via {gateway} dev eth0 onlink" for gateway in gateways),
        )


def _route(prefix: str) -> str:
    via, source = (HOST6, SERVER6) if ":" in prefix else (HOST4, SERVER4)
    return f"route add {prefix} via {via} src {source}"
