"""The changes of each example: every key with other values, and without it where that is valid."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.golden.change import Book, Change
from tests.golden.examples import EXAMPLES, Example

SUBNETS4, SUBNETS6 = "10.99.0.0/24", "fd99:0:0:1::/64"


def bridge(book: Book) -> None:
    book.network("office", "bridge", "xenbr1", "xenbr7")
    book.networks("office", {"mode": "isolated", "bridge": None})
    book.networks("office", {"mode": "isolated"})
    book.networks("office", {"mode": "nat", "bridge": None, "subnets": [SUBNETS4, SUBNETS6], "dhcp": True})
    book.networks("office", {"mode": "route", "bridge": None})
    book.network("servers", "bridge", "xenbr0", "xenbr7")
    book.networks("servers", {"mode": "isolated", "bridge": None})
    book.network("servers", "tx_checksum", False)
    book.rename("office", "desks")
    book.rename("servers", "racks")
    book.remove_network("office")
    book.remove_network("servers")
    book.policy("quarantine", "match.vm", "*-jail", None, also=("srv-1", "licence", "desk"))
    book.policy("quarantine", "deny", "another reason")
    book.outcome("quarantine", network="servers")
    book.remove_policy("quarantine")
    book.policy("servers", "match.vm", "db-*", "desk", None, also=("licence", "desk"))
    book.policy("servers", "network", "office")
    book.policy("servers", "isolated", True)
    book.policy("servers", "tx_checksum", False)
    book.policy("servers", "mac", "stable")
    book.policy("servers", "vlan", "ignore")
    book.outcome("servers", deny="no servers today")
    book.remove_policy("servers")
    book.policy("licence server", "match.vm", "another", "desk", None, also=("desk",))
    book.policy("licence server", "match.devid", 1, None)
    book.policy("licence server", "mac", None)
    book.policy("licence server", "network", "servers")
    book.remove_policy("licence server")
    book.policy("all others", "network", "servers")
    book.policy("all others", "match", {"vm": "nobody"}, {"bridge": "xenbr0"})
    book.policy("all others", "isolated", True)
    book.policy("all others", "mac", "stable")
    book.outcome("all others", deny="no others")
    book.remove_policy("all others")
    book.reverse("web-quarantine", "srv-1")


def nat(book: Book) -> None:
    to_web = {"proto": "tcp", "port": 8080, "to": "web-1:80"}
    to_jump = {"proto": "tcp", "port": 2222, "to": "10.77.0.5:22"}
    plain = {"mode": "isolated", "uplink": None, "forward": None}
    book.networks("lab", plain)
    book.networks("lab", {"mode": "route", "forward": None})
    wire = {"mode": "bridge", "bridge": "xenbr0", **dict.fromkeys(("subnets", "uplink", "dhcp", "forward"))}
    book.networks("lab", wire, ips={"jump host": None})
    book.network("lab", "bridge", "lab0")
    book.networks("lab", {"subnets": [SUBNETS4], "forward": [to_web]}, ips={"jump host": ["10.99.0.5"]})
    book.network("lab", "subnets", ["10.77.0.0/16"], ["10.77.0.0/24", SUBNETS6])
    book.networks("lab", {"subnets": ["10.77.0.0/24", SUBNETS6], "ra": "stateful"})
    book.network("lab", "uplink", "eth1", "eth9", None)
    book.network("lab", "dhcp", False, None)
    book.network("lab", "domain", "example.org")
    book.network("lab", "forward", [{**to_web, "port": 8081}, to_jump], only=("web-1",))
    book.network("lab", "forward", [{**to_web, "to": "web-1:8000"}, to_jump], only=("web-1",))
    book.network("lab", "forward", [{**to_web, "proto": "udp"}, to_jump], only=("web-1",))
    book.network("lab", "forward", [{**to_web, "to": "db-1:80"}, to_jump], only=("web-1", "db-1"))
    book.network("lab", "forward", [{**to_web, "to": "nobody:80"}, to_jump], [to_jump], only=("web-1",))
    book.network("lab", "forward", [to_web, {**to_jump, "to": "jump:22"}], only=("jump",))
    book.network("lab", "forward", [to_web, {**to_jump, "to": "10.77.0.6:22"}], [to_web], only=("jump",))
    book.network("lab", "forward", [to_jump, to_web], only=("nobody",))
    book.network("lab", "forward", None, only=("web-1", "jump"))
    book.rename("lab", "office")
    book.rename_with_what_follows("lab", "office")
    book.remove_network("lab")
    book.policy("jump host", "ip", ["10.77.0.6"], None)
    book.policy("jump host", "match.vm", "db-1", also=("web-1", "db-1"))
    book.policy("jump host", "match.vm", None, also=("web-1", "db-1"))
    book.policy("jump host", "match.devid", 1, None)
    book.policy("jump host", "isolated", True)
    book.outcome("jump host", deny="no jumps")
    book.remove_policy("jump host")
    book.policy("lab", "match", {"vm": "web-*"})
    book.policy("lab", "isolated", True)
    book.policy("lab", "mac", "stable")
    book.outcome("lab", deny="closed")
    book.remove_policy("lab")
    book.reverse("jump")


def dual_stack(book: Book) -> None:
    web = {"proto": "tcp", "port": 443, "to": "web-1:443"}
    four, six = "10.77.0.0/24", "fd77:0:0:1::/64"
    book.networks("lab", {"mode": "isolated", **dict.fromkeys(("uplink", "nptv6", "forward"))})
    book.networks("lab", {"mode": "route", **dict.fromkeys(("nptv6", "forward"))})
    book.network("lab", "bridge", "lab0")
    book.network("lab", "subnets", [six, four])
    book.network("lab", "subnets", ["10.77.0.0/25", six])
    book.network("lab", "uplink", "eth1", None)
    book.networks("lab", {"dhcp": None, "ra": None})
    book.network("lab", "ra", "slaac", "off", None)
    book.network("lab", "domain", "example.org", None)
    book.network("lab", "nptv6", "2001:db8:78:1::/64", None)
    book.networks("lab", {"nptv6": None, "nat66": True})
    book.network("lab", "forward", [{**web, "port": 8443}], None, only=("web-1",))
    book.network("lab", "forward", [{**web, "to": "[fd77:0:0:1::80]:443"}], only=("web-1",))
    book.network("lab", "forward", [{**web, "to": "db-1:443"}], only=("web-1", "db-1"))
    book.rename("lab", "office")
    book.remove_network("lab")
    book.policy("web server", "ip", ["10.77.0.81", "fd77:0:0:1::80"], ["10.77.0.80"], ["fd77:0:0:1::80"], None)
    book.policy("web server", "match.vm", "db-1", also=("db-1",))
    book.policy("web server", "match.devid", 1, None)
    book.outcome("web server", deny="no web")
    book.remove_policy("web server")
    book.policy("lab", "isolated", True)
    book.outcome("lab", deny="closed")
    book.remove_policy("lab")
    book.reverse("web-1")


def isolated(book: Book) -> None:
    wired = {"mode": "bridge", "bridge": "xenbr0"}
    book.networks("storage", {"mode": "nat"})
    book.networks("storage", {**wired, "subnets": None, "dhcp": None})
    book.network("storage", "subnets", [SUBNETS4], ["10.78.0.0/24", SUBNETS6], [SUBNETS6])
    book.networks("storage", {"subnets": None, "dhcp": None})
    book.networks("wire", {"mode": "nat", "subnets": [SUBNETS4]})
    book.network("wire", "subnets", [SUBNETS4])
    book.networks("wire", {"subnets": [SUBNETS4], "dhcp": True})
    book.networks("storage", {"mode": "route"})
    book.network("storage", "bridge", "store0")
    book.rename_with_what_follows("storage", "disks")
    book.networks("wire", wired)
    book.network("wire", "bridge", "wire0")
    book.rename_with_what_follows("wire", "cable")
    book.remove_network("storage")
    book.remove_network("wire")
    book.network("storage", "dhcp", False, None)
    book.network("storage", "domain", "example.org")
    book.rename("storage", "disks")
    book.rename("wire", "cable")
    book.policy("storage", "match.vm", "web-*", None)
    book.policy("storage", "match.devid", 0, 2, 3, also=("db-1", "db-1/2"))
    book.policy("storage", "match.devid", None, also=("db-1", "db-1/2"))
    book.policy("storage", "ip", ["10.78.0.9"])
    book.policy("storage", "isolated", True)
    book.policy("storage", "network", "wire")
    book.outcome("storage", deny="no storage")
    book.remove_policy("storage")
    book.policy("cluster heartbeat", "match.vm", "web-*", None)
    book.policy("cluster heartbeat", "match.devid", 3, None, also=("db-1",))
    book.policy("cluster heartbeat", "network", "storage")
    book.outcome("cluster heartbeat", deny="no heartbeat")
    book.remove_policy("cluster heartbeat")
    book.reverse()


def route_link_local(book: Book) -> None:
    four, six = "198.51.100.0/26", "2001:db8:5::/64"
    book.networks("edge", {"mode": "nat", "gateway": None})
    book.networks("edge", {"mode": "isolated", "gateway": None})
    book.network("edge", "subnets", [six, four], ["198.51.100.0/25", six], None)
    book.network("edge", "uplink", "eth0", "eth1", "eth9")
    book.network("edge", "gateway", "uplink", None)
    book.network("edge", "proxy", True)
    book.network("edge", "dhcp", True)
    book.networks("edge", {"dhcp": True, "domain": "example.org"})
    book.rename("edge", "rim")
    book.remove_network("edge")
    for name, other, address in (("name server 1", "ns-2", "9"), ("name server 2", "ns-1", "10")):
        fixed = [f"198.51.100.{address}", f"2001:db8:5::{address}"]
        book.policy(name, "match.vm", "nobody", None, also=(other,))
        book.policy(name, "match.devid", 1, None)
        book.policy(name, "ip", fixed, fixed[:1], fixed[1:], None)
        book.outcome(name, deny="no names")
        book.remove_policy(name)
    book.reverse()


def route(book: Book) -> None:
    moved = {"mail server": ["10.99.0.25"]}
    book.networks("public", {"mode": "isolated", "subnets": [SUBNETS4], "uplink": None, "proxy": None}, ips=moved)
    book.networks("public", {"mode": "nat", "subnets": [SUBNETS4], "proxy": None}, ips=moved)
    book.networks("public", {"subnets": [SUBNETS4]}, ips=moved)
    book.network("public", "subnets", ["192.0.2.16/28", SUBNETS6], None)
    book.network("public", "uplink", "eth1")
    book.network("public", "uplink", "eth9", None)
    book.network("public", "proxy", False, None)
    book.network("public", "gateway", "link-local")
    book.network("public", "dhcp", True)
    book.network("public", "tx_checksum", False)
    book.rename("public", "open")
    book.remove_network("public")
    book.policy("mail server", "match.vm", "nobody", None, also=("pub-1",))
    book.policy("mail server", "match.vm", "pub-1", also=("pub-1",))
    book.policy("mail server", "match.devid", 1, None)
    book.policy("mail server", "ip", ["192.0.2.26"], None)
    book.policy("mail server", "mac", "stable")
    book.outcome("mail server", deny="no mail")
    book.remove_policy("mail server")
    book.policy("public", "match.vm", "www-*", None)
    book.policy("public", "ip", ["192.0.2.18"])
    book.outcome("public", deny="nothing public")
    book.remove_policy("public")
    book.reverse()


_OF_EXAMPLE: Mapping[str, Callable[[Book], None]] = {
    "bridge": bridge,
    "nat": nat,
    "dual-stack": dual_stack,
    "isolated": isolated,
    "route-link-local": route_link_local,
    "route": route,
}


def changes_of(example: Example) -> tuple[Change, ...]:
    """Return all changes of an example."""
    book = Book(example)
    _OF_EXAMPLE[example.name](book)
    return book.finish()


CHANGES = {example: changes_of(example) for example in EXAMPLES}
