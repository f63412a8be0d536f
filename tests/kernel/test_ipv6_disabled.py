"""A host without IPv6 on its links, as hardening guides have it: a network with an IPv6 subnet is had all the same.

Its own bridge has IPv6, and no other link of the host gets it by that.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bed.daemon import STAND_IN
from tests.bed.netns import Host, NetNs
from tests.bed.site import Site, sysctl
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import Inhabit, MakeDaemon, MakeGuest
from tests.kernel.every_mode import setting
from tests.kernel.status import status

BRIDGE = "xn-lab"
GATEWAYS = ("10.77.0.1", "fd77::1")


def everywhere(host: Host) -> None:
    """Links that are there have it no more, and those to come don't have it."""
    sysctl(host, ipv6__conf__all__disable_ipv6=1, ipv6__conf__default__disable_ipv6=1)


def on_links_to_come(host: Host) -> None:
    """Links that are there keep it."""
    sysctl(host, ipv6__conf__default__disable_ipv6=1)


def without_ipv6(host: NetNs) -> dict[str, int]:
    """Whether IPv6 is disabled: on links that are neither guests' nor the network's, and by `default`."""
    with host:
        links = [directory.name for directory in Path("/proc/sys/net/ipv6/conf").iterdir()]
    theirs = [link for link in links if link != BRIDGE and not link.startswith("vif")]
    return {link: setting(host, f"ipv6/conf/{link}/disable_ipv6") for link in theirs}


@pytest.mark.parametrize("disable", [everywhere, on_links_to_come])
@pytest.mark.parametrize("mode", ["nat", "isolated"])
def test_a_network_has_both_versions_and_no_other_link_is_changed(
    site: Site,
    guest: MakeGuest,
    daemon: MakeDaemon,
    inhabit: Inhabit,
    mode: str,
    disable: Callable[[Host], None],
) -> None:
    # given
    disable(site.host)
    site.host.bridge("xenbr0", address="10.0.0.254/24")
    before = without_ipv6(site.host)
    assert before["xenbr0"] == before["default"] == 1
    # when
    subnets = 'subnets = ["10.77.0.0/24", "fd77::/64"]'
    xennetd = daemon("\n".join((STAND_IN, "[network.lab]", f'mode = "{mode}"', subnets, '[[policy]]\nnetwork = "lab"')))
    # then
    assert status(xennetd)["problems"] == []
    assert {"10.77.0.1/24", "fd77::1/64"} <= set(site.host.addresses(BRIDGE))
    assert setting(site.host, f"ipv6/conf/{BRIDGE}/disable_ipv6") == 0
    web = guest("web", VifSpec(ip="10.77.0.11 fd77::11"))
    inhabit(web, "10.77.0.11/24", "fd77::11/64", gateways=GATEWAYS)
    for gateway in GATEWAYS:
        assert web.ping(gateway)
    assert status(xennetd)["problems"] == []
    assert without_ipv6(site.host) == before
