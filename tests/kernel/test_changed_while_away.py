"""A start with another configuration than the last one, while guests have not been looked at yet.

A guest that the new configuration denies gains no packet, and one that it still allows loses none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.bed.echoes import Echoes
from tests.bed.guest import Bed
from tests.bed.netns import NetNs
from tests.bed.site import HOST4, ROUTER4, SERVER4, Site, ip, sysctl
from tests.bed.xenstored import Xenstored
from tests.kernel.conftest import Inhabit, MakeGuest
from tests.kernel.defective import Defective
from tests.kernel.every_mode import networks, policy
from tests.kernel.wait import eventually

LAB = '[network.lab]\nmode = "nat"\nsubnets = ["10.77.0.0/24"]\nuplink = "eth0"\n'
STORE = LAB.replace('"nat"', '"isolated"').replace('uplink = "eth0"\n', "")
ELSEWHERE = LAB.replace('"eth0"', '"up1"')
WITH_IPV6 = LAB.replace('/24"]', '/24", "fd77::/64"]')
EDGE = '[network.edge]\nmode = "route"\n'
DENY = policy("lab-*", 'deny = "gone"')


class Gated(Defective):
    """A daemon that looks at no guest until the gate is open, as if a thousand others came first."""

    def __init__(self, xenstored: Xenstored, directory: Path, gate: Path) -> None:
        defect = f"""
import asyncio
from pathlib import Path
from xennetd.daemon.reconcile.reconciler import Reconciler
look = Reconciler._reconcile
async def gated(self, *args, **kwargs):
    while not Path({str(gate)!r}).exists():
        await asyncio.sleep(0.02)
    return await look(self, *args, **kwargs)
Reconciler._reconcile = gated
"""
        super().__init__(xenstored, directory, defect=defect)
        self.gate = gate

    def run(self, config: str) -> None:
        self.gate.touch()
        self.configure(config)
        self.start()

    def restart(self, host: NetNs, config: str) -> None:
        """Return when the filter of the new configuration is in force, and no guest has been looked at."""
        before = rules(host)
        self.kill9()
        self.gate.unlink()
        self.configure(config)
        self.start(ready=False)
        eventually(lambda: rules(host) != before)

    def finish(self) -> None:
        self.gate.touch()
        self.wait_ready()


def rules(host: NetNs) -> str:
    """The rules, without sets, which change earlier."""
    listed = host.run("nft", "list", "table", "inet", "xennetd").stdout
    return listed[listed.index("chain ") :]


@pytest.fixture
def xennetd(xenstored: Xenstored, tmp_path: Path) -> Iterator[Gated]:
    with closing(Gated(xenstored, tmp_path, tmp_path / "gate")) as daemon:
        yield daemon


def arrived(namespace: NetNs) -> int:
    """What namespaces have counted of the guest's, or for the guest; the first call begins to count."""
    if "table ip t" not in namespace.run("nft", "list", "tables").stdout:
        chain = "add chain ip t c { type filter hook prerouting priority 0; }"
        rule = f"add rule ip t c ip saddr {{ 10.77.0.11, {HOST4}, {ROUTER4} }} icmp type echo-request counter"
        namespace.run("nft", f"add table ip t; {chain}; {rule}")
    return int(namespace.run("nft", "list", "table", "ip", "t").stdout.partition("packets ")[2].split()[0])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (networks(LAB, EDGE), networks(EDGE) + DENY),
        (networks(LAB, EDGE), networks(EDGE, STORE.replace("lab", "store").replace("77", "78")) + DENY),
        (networks(STORE, EDGE), networks(EDGE) + DENY + LAB),
        (networks(ELSEWHERE, EDGE), networks(EDGE) + DENY + LAB),
    ],
    ids=["no network any more", "other networks", "from isolated to nat", "another uplink"],
)
def test_a_guest_that_is_denied_now_gains_no_packet(
    bed: Bed, site: Site, guest: MakeGuest, inhabit: Inhabit, xennetd: Gated, before: str, after: str
) -> None:
    # given: a host that forwards anyway
    sysctl(site.host, ipv4__ip_forward=1)
    ip(site.host, "link add up1 type bridge", "link set up1 up")
    xennetd.run(before)
    web = guest("lab-1")
    inhabit(web, "10.77.0.11/24", gateways=["10.77.0.1"])
    ip(site.internet, f"route replace 10.77.0.0/24 via {HOST4} dev eth0")
    # when
    xennetd.restart(site.host, after)
    arrived(site.internet)
    arrived(web.namespace)
    site.internet.run("ping", "-c1", "-W0.3", "-I", ROUTER4, "10.77.0.11", check=False)
    web.namespace.ping(SERVER4, wait=0.3)
    # then
    assert site.host.links()[web.vif.netdev]["master"] == "xn-lab"
    assert (arrived(site.internet), arrived(web.namespace)) == (0, 0)
    xennetd.finish()
    assert "master" not in site.host.links()[web.vif.netdev]


def test_a_guest_that_is_still_allowed_loses_no_packet(
    site: Site, guest: MakeGuest, inhabit: Inhabit, xennetd: Gated
) -> None:
    xennetd.run(networks(LAB, EDGE))
    web = guest("lab-1")
    inhabit(web, "10.77.0.11/24", gateways=["10.77.0.1"])
    with Echoes({"out": (web.namespace, SERVER4)}) as pings:
        xennetd.restart(site.host, networks(WITH_IPV6, EDGE))
        assert web.namespace.ping(ROUTER4, wait=0.5)  # a connection that begins now
        xennetd.finish()
        assert pings.lost() == {}


def test_a_guest_that_is_allowed_more_has_it_after_the_start(
    site: Site, guest: MakeGuest, inhabit: Inhabit, xennetd: Gated
) -> None:
    xennetd.run(networks(STORE, EDGE))
    web = guest("lab-1")
    inhabit(web, "10.77.0.11/24", gateways=["10.77.0.1"])
    xennetd.restart(site.host, networks(LAB, EDGE))
    xennetd.finish()
    assert web.namespace.ping(SERVER4, wait=0.5)
