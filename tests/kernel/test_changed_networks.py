"""A network that was changed while no daemon ran: its bridge is as a new one's; what an administrator added stays."""

from __future__ import annotations

import re
import time
from itertools import permutations

import pytest

from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.guest import Bed
from tests.bed.site import Site, ip, sysctl
from tests.bed.state import changes, link_state
from tests.kernel.conftest import MakeDaemon

NETWORKS = {
    "nat": '[network.lab]\nmode = "nat"\nsubnets = ["10.77.0.0/24", "fd77::/64"]\n',
    "other subnets": '[network.lab]\nmode = "nat"\nsubnets = ["10.79.0.0/24", "fd79::/64"]\n',
    "without IPv6": '[network.lab]\nmode = "nat"\nsubnets = ["10.77.0.0/24"]\n',
    "isolated": '[network.lab]\nmode = "isolated"\nsubnets = ["10.78.0.0/24", "fd78::/64"]\n',
    "bare": '[network.lab]\nmode = "isolated"\n',
}
ADMINS = ("10.99.0.1/24", "10.77.0.2/24", "10.79.0.2/24", "fd99::1/64")
"""What an administrator gives to the bridge, in subnets of the networks, too.

IPv6 goes from a bridge on which a network switches it off.
"""


def restart(xennetd: Daemon, config: str) -> None:
    xennetd.kill9()
    xennetd.configure(config)
    xennetd.start()


def bridge_state(site: Site) -> list[str]:
    """All that the kernel holds about the bridge, without its subnet-router anycast addresses.

    The kernel joins these when a bridge forwards and leaves them when it does not, and miscounts where IPv6 is switched
    off and on in between.
    """
    return [
        line for line in link_state(site.host, "xn-lab") if not re.search(r"anycast|33:33:ff:00:00:00|:ff00:0\b", line)
    ]


def until_equal(want: list[str], site: Site) -> list[str]:
    """Return what differs after a second, in which the kernel ends what it does by itself."""
    deadline = time.monotonic() + 1.0
    while (different := changes(want, bridge_state(site))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return different


@pytest.fixture
def xennetd(site: Site, bed: Bed, daemon: MakeDaemon) -> Daemon:
    sysctl(site.host, ipv6__conf__default__accept_dad=0)
    return daemon(STAND_IN)


def test_a_network_that_was_changed_meanwhile_is_as_a_new_one(site: Site, bed: Bed, xennetd: Daemon) -> None:
    new = {}
    for name, text in NETWORKS.items():
        restart(xennetd, STAND_IN + text)
        new[name] = bridge_state(site)
        restart(xennetd, STAND_IN)
        assert "xn-lab" not in bed.host.links()
    wrong = []
    for before, after in permutations(NETWORKS, 2):
        restart(xennetd, STAND_IN + NETWORKS[before])
        restart(xennetd, STAND_IN + NETWORKS[after])
        wrong += [f"{before} to {after}: {line}" for line in until_equal(new[after], site)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("restarts", [True, False], ids=["restart", "reload"])
def test_addresses_that_an_administrator_added_stay(site: Site, bed: Bed, xennetd: Daemon, *, restarts: bool) -> None:
    xennetd.reload(STAND_IN + NETWORKS["nat"])
    ip(site.host, *(f"address add {address} dev xn-lab" for address in ADMINS))
    for name, gateways in (("other subnets", {"10.79.0.1/24", "fd79::1/64"}), ("nat", {"10.77.0.1/24", "fd77::1/64"})):
        if restarts:
            restart(xennetd, STAND_IN + NETWORKS[name])
        else:
            xennetd.reload(STAND_IN + NETWORKS[name])
        addresses = {address for address in bed.host.addresses("xn-lab") if not address.startswith("fe80")}
        assert addresses == gateways | set(ADMINS)


def test_a_gateways_address_that_somebody_added_by_hand_is_the_networks(site: Site, bed: Bed, xennetd: Daemon) -> None:
    """As an administrator does who mends a network in haste, or as a xennetd without the mark has left it."""
    config = STAND_IN + NETWORKS["without IPv6"]
    xennetd.reload(config)
    xennetd.kill9()
    ip(site.host, "address del 10.77.0.1/24 dev xn-lab", "address add 10.77.0.1/24 dev xn-lab")
    xennetd.start()
    restart(xennetd, STAND_IN + NETWORKS["other subnets"])
    assert "10.77.0.1/24" not in bed.host.addresses("xn-lab")
