"""Who reaches whom, with networks of all modes on one host: guests, dom0 and the internet, by IPv4 and by IPv6.

The guests are as bad as can be: each has a default route by its host, whether it is to get out or not. A row asks, a
column is asked.
"""

from __future__ import annotations

import pytest

from tests.bed.reach import Services, matrix, table
from tests.bed.site import HOST4, Site
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import Inhabit, MakeDaemon, MakeGuest

CONFIGURATION = """
[daemon]
stand_in = true

[network.attic]
mode = "isolated"
subnets = ["10.75.0.0/24", "fd75::/64"]

[network.edge]
mode = "route"
subnets = ["203.0.113.0/24", "2001:db8:5::/64"]

[network.free]
mode = "nat"
subnets = ["10.76.0.0/24", "fd76::/64"]
nat66 = true

[network.lab]
mode = "nat"
subnets = ["10.77.0.0/24", "fd77::/64"]
uplink = "eth0"
nat66 = true

[network.store]
mode = "isolated"
subnets = ["10.78.0.0/24", "fd78::/64"]

[[policy]]
match = { vm = "attic-*" }
network = "attic"

[[policy]]
match = { vm = "edge-*" }
network = "edge"

[[policy]]
match = { vm = "free-*" }
network = "free"

[[policy]]
match = { vm = "lab-*" }
network = "lab"

[[policy]]
match = { vm = "store-*" }
network = "store"
"""

# Of the two networks of mode nat, lab may only use the uplink; free goes wherever the host's routes lead. One of the
# isolated networks comes before all others in the alphabet, one after. Their guests know the host by their gateway's
# address alone; dom0 here is its address on the uplink.
REACHABLE = table(
    """
    from\\to   edge-1 edge-2 lab-1 lab-2 free-1 store-1 store-2 attic-1 dom0 internet
    edge-1    .      yes    no    no    no     no      no      no      yes  yes
    edge-2    yes    .      no    no    no     no      no      no      yes  yes
    lab-1     no     no     .     yes   no     no      no      no      yes  yes
    lab-2     no     no     yes   .     no     no      no      no      yes  yes
    free-1    yes    yes    no    no    .      no      no      no      yes  yes
    store-1   no     no     no    no    no     .       yes     no      no   no
    store-2   no     no     no    no    no     yes     .       no      no   no
    attic-1   no     no     no    no    no     no      no      .       no   no
    dom0      yes    yes    yes   yes   yes    yes     yes     yes     .    yes
    internet  yes    yes    no    no    no     no      no      no      yes  .
    """
)

INHABITANTS = {
    "edge-1": ("203.0.113.11/32", "2001:db8:5::11/128"),
    "edge-2": ("203.0.113.12/32", "2001:db8:5::12/128"),
    "lab-1": ("10.77.0.11/24", "fd77::11/64"),
    "lab-2": ("10.77.0.12/24", "fd77::12/64"),
    "free-1": ("10.76.0.11/24", "fd76::11/64"),
    "store-1": ("10.78.0.11/24", "fd78::11/64"),
    "store-2": ("10.78.0.12/24", "fd78::12/64"),
    "attic-1": ("10.75.0.11/24", "fd75::11/64"),
}
GATEWAYS = {
    "edge": (HOST4, "fe80::1"),
    "lab": ("10.77.0.1", "fd77::1"),
    "free": ("10.76.0.1", "fd76::1"),
    "store": ("10.78.0.1", "fd78::1"),
    "attic": ("10.75.0.1", "fd75::1"),
}


@pytest.mark.usefixtures("br_netfilter")
def test_each_mode_reaches_what_it_is_for_and_nothing_else(
    site: Site, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit, services: Services
) -> None:
    daemon(CONFIGURATION)
    places = []
    for name, addresses in INHABITANTS.items():
        ip = " ".join(address.partition("/")[0] for address in addresses)
        gateways = GATEWAYS[name.partition("-")[0]]
        places.append(inhabit(guest(name, VifSpec(ip=ip)), *addresses, gateways=gateways))
    for place in (site.dom0, site.beyond):
        services.offer(place)
        places.append(place)

    assert matrix(places, 4) == REACHABLE
    assert matrix(places, 6) == REACHABLE
