"""What an administrator may have configured on eth0: addresses, routes, rules and neighbours of every kind."""

from __future__ import annotations

from tests.bed.netns import NetNs

SETUP = """
link set eth0 up
address add 192.0.2.7/24 dev eth0
address add 192.0.2.8/24 dev eth0 label eth0:web
address add 198.51.100.1/25 dev eth0 noprefixroute metric 77
address add 203.0.113.9 peer 203.0.113.10 dev eth0
address add 2001:db8::7/64 dev eth0 nodad
address add 2001:db8:1::7/64 dev eth0 nodad noprefixroute
route add default via 192.0.2.1
route add default via 192.0.2.254 metric 500 mtu 1300
route add 10.1.0.0/16 via 192.0.2.1 src 192.0.2.8 proto static
route add 198.51.100.0/25 dev eth0 proto kernel scope link src 198.51.100.1 metric 100
route add 10.2.0.0/16 dev eth0 table 100
route add default via 192.0.2.1 table 100
route add 10.3.0.0/16 nexthop via 192.0.2.1 weight 3 nexthop via 192.0.2.254
route add 10.4.0.0/16 via 172.16.0.1 dev eth0 onlink
-6 route add default via 2001:db8::1
-6 route add 2001:db8:9::/48 via 2001:db8::1 metric 5 table 100
-6 route add 2001:db8:8::/48 dev eth0
rule add iif eth0 table 100 priority 1000
-6 rule add oif eth0 table 100 priority 1001
neigh add 192.0.2.99 lladdr 02:00:00:00:00:99 dev eth0 nud permanent
"""


def configure(host: NetNs) -> None:
    """Configure eth0, which must have a carrier for that: routes lead through routers."""
    for command in SETUP.strip().splitlines():
        host.run("ip", *command.split())
