"""A VXLAN as a port of a bridge: guests of two hosts are in one network."""

from __future__ import annotations

import pytest

from tests.bed.daemon import STAND_IN
from tests.bed.netns import Host, NetNs
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.test_topology import apply, plan
from tests.kernel.wait import eventually

TUNNEL = """
[vxlan.vx100]
id = 100
local = "192.0.2.7"
remote = "192.0.2.1"
[bridge.lab]
ports = ["vx100"]
addresses = []
"""


@pytest.fixture
def peer(router: NetNs) -> NetNs:
    """Another host beyond eth0, with an address in VXLAN 100."""
    for words in (
        ("link", "add", "vx100", "type", "vxlan", "id", "100", "local", "192.0.2.1", "remote", "192.0.2.7",
         "dstport", "4789"),
        ("link", "set", "vx100", "up"),
        ("address", "add", "10.100.0.1/24", "dev", "vx100"),
    ):  # fmt: skip
        done = router.run("ip", *words)
        assert done.returncode == 0, done.stderr
    return router


def test_guests_reach_through_the_tunnel_and_nothing_of_it_stays(
    host: Host, peer: NetNs, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    before = host.links().keys()
    xennetd = daemon(STAND_IN + TUNNEL)
    steps = apply(xennetd)
    made = "type vxlan remote 192.0.2.1 id 100 local 192.0.2.7 dstport 4789; set up"
    assert any(step.startswith("ip link add vx100 ") and step.endswith(made) for step in steps), steps
    links = host.links()
    data = links["vx100"]["linkinfo"]["info_data"]
    assert {key: data[key] for key in ("id", "local", "remote", "port")} == {
        "id": 100,
        "local": "192.0.2.7",
        "remote": "192.0.2.1",
        "port": 4789,
    }
    assert (links["vx100"]["mtu"], links["lab"]["mtu"]) == (1450, 1450)
    web = guest("web", VifSpec(bridge="lab"), address="10.100.0.5/24")
    web.connect()
    eventually(lambda: web.ping("10.100.0.1"))
    web.destroy()
    xennetd.configure(STAND_IN)
    apply(xennetd)
    assert host.links().keys() == before
    assert "192.0.2.7/24" in host.addresses("eth0")


def test_the_peer_changes_in_place_and_the_number_does_not(host: Host, router: NetNs, daemon: MakeDaemon) -> None:
    xennetd = daemon(STAND_IN + TUNNEL)
    apply(xennetd)
    index = (host.link("vx100") or {})["ifindex"]
    xennetd.configure(STAND_IN + TUNNEL.replace("192.0.2.1", "192.0.2.254").replace("id =", "learning = false\nid ="))
    assert apply(xennetd) == ["ip link set vx100 type vxlan remote 192.0.2.254 nolearning"]
    assert (host.link("vx100") or {})["ifindex"] == index
    xennetd.configure(STAND_IN + TUNNEL.replace("id = 100", 'id = 101\nparent = "eth0"'))
    assert any(step.startswith("ip link delete vx100; ip link add link eth0 vx100 ") for step in apply(xennetd))
    data = (host.link("vx100") or {})["linkinfo"]["info_data"]
    assert (data["id"], data["link"]) == (101, "eth0")
    imported = xennetd.ctl("import").stdout
    assert 'parent = "eth0"' in imported
    xennetd.configure(STAND_IN + imported)
    assert plan(xennetd) == (0, [], [])


def test_a_bridge_on_a_tunnel_adopts_nothing_of_the_link_below_it(
    host: Host, router: NetNs, daemon: MakeDaemon
) -> None:
    """Else the tunnel's own address would be in the tunnel."""
    before = host.addresses("eth0")
    adopts = TUNNEL.replace("addresses = []", 'addresses = "adopt"').replace("id = 100", 'id = 100\nparent = "eth0"')
    xennetd = daemon(STAND_IN + adopts)
    apply(xennetd)
    assert host.addresses("eth0") == before
    assert not any(each in before for each in host.addresses("lab"))
