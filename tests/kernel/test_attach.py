"""A vif is attached: from its appearance to the verdict, on the real kernel and the real xenstored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bed.guest import Bed
from tests.bed.netns import FE_FF
from tests.bed.news import LinkNews, Seen
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.bed.xen import REPOSITORY
from tests.kernel.conftest import Bystander, MakeDaemon, MakeGuest, both_stores
from tests.kernel.verdict import connected, refused

OURS = str(REPOSITORY / "conf" / "vif-xennetd")
"""The hotplug script, as a path that a vif's script node may have."""


@both_stores
def test_guests_are_bridged_and_reach_each_other(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0")
    daemon()
    one = guest("one", address="10.0.0.1/24")
    two = guest("two", address="10.0.0.2/24")
    one.connect()
    two.connect()
    assert one.ping("10.0.0.2")


@both_stores
@pytest.mark.parametrize("first", ["state", "link"])
def test_waits_for_state_2_and_the_link(bed: Bed, daemon: MakeDaemon, settle: Callable[[], None], first: str) -> None:
    bed.host.bridge("xenbr0")
    xennetd = daemon()
    vif = bed.toolstack.add_vif(bed.toolstack.create_domain("web"))
    guest = bed.host.guest("web")
    happens = [lambda: bed.netback.probe(vif), lambda: bed.netback.create(vif, guest)]
    if first == "link":
        happens.reverse()

    happens[0]()
    settle()
    assert bed.toolstack.xs.get(f"{vif.backend}/hotplug-status") == ""
    assert xennetd.ask("show", vif.netdev)["state"] == "pending"
    if first == "link":
        link = bed.host.links()[vif.netdev]
        assert "UP" not in link["flags"]
        assert "master" not in link

    happens[1]()
    connected(bed, vif)
    link = bed.host.links()[vif.netdev]
    assert "UP" in link["flags"]
    assert link["master"] == "xenbr0"


def test_the_port_is_down_until_it_is_in_its_bridge(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0")
    daemon()
    with LinkNews(bed.host) as news:
        web = guest("web")
        connected(bed, web.vif)
        seen = news.of(web.vif.netdev)
    assert seen[-1].up
    assert all(link.master == bed.host.rtnl.index("xenbr0") for link in seen if link.up)


def test_a_link_that_was_up_with_addresses_is_made_a_bare_port(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    # given: what network managers like to do to new links
    bed.host.bridge("xenbr0")
    web = guest("web")
    bed.host.rtnl.set(web.vif.netdev, up=True, address="00:16:3e:00:00:01")
    bed.host.rtnl.add_address(web.vif.netdev, "192.0.2.1/24")
    bed.host.rtnl.add_address(web.vif.netdev, "2001:db8::1/64")
    web.namespace.rtnl.set("eth0", up=True)
    assert len(bed.host.addresses(web.vif.netdev)) >= 3

    # when
    daemon()
    web.connect()

    # then
    link = bed.host.links()[web.vif.netdev]
    assert (link["address"], link["master"], link["inet6_addr_gen_mode"]) == (FE_FF, "xenbr0", "none")
    assert bed.host.addresses(web.vif.netdev) == []


def test_no_link_local_address_comes_with_the_carrier(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0")
    daemon()
    web = guest("web", address="fe80::1/64")
    web.connect()
    Path(f"/proc/sys/net/ipv6/conf/{web.vif.netdev}/forwarding").write_text("1")  # the next chance for one
    assert bed.host.addresses(web.vif.netdev) == []


def test_an_attach_is_one_record_with_everything_that_matters(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
) -> None:
    bed.host.bridge("xenbr0")
    xennetd = daemon(
        '[daemon]\nstand_in = true\n[network.lan]\nmode = "bridge"\nbridge = "xenbr0"\n'
        '[[policy]]\nname = "web tier"\nmatch = { vm = "web-*" }\nnetwork = "lan"\n'
    )
    web = guest("web-1", VifSpec(ip="192.0.2.7 2001:db8::7/64", mac="00:16:3e:01:02:03", bridge="elsewhere"))
    web.connect()

    entry = dict(journal.wait_for(XENNET_EVENT="attach", XENNET_VIF=web.vif.netdev))
    assert int(entry.pop("XENNET_DURATION_US")) < 1_000_000
    assert entry.pop("MESSAGE").startswith(f'{web.vif.netdev} of web-1 attached to xenbr0 by policy "web tier" in ')
    assert entry == {
        "MESSAGE_ID": "17cfb1a3a61447ed8c9f4b9282ea61ea",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "xennetd",
        "XENNET_EVENT": "attach",
        "XENNET_VIF": web.vif.netdev,
        "XENNET_DOMID": str(web.vif.domid),
        "XENNET_DEVID": "0",
        "XENNET_VM": "web-1",
        "XENNET_UUID": web.domain.uuid,
        "XENNET_MAC": "00:16:3e:01:02:03",
        "XENNET_IPS": "192.0.2.7 2001:db8::7/64",
        "XENNET_NETWORK": "lan",
        "XENNET_BRIDGE": "xenbr0",
        "XENNET_POLICY": "web tier",
    }
    (row,) = xennetd.ask("list")
    assert (row["vif"], row["vm"], row["state"], row["error"]) == (web.vif.netdev, "web-1", "connected", None)
    assert (row["network"], row["mode"], row["bridge"]) == ("lan", "bridge", "xenbr0")


class TestTheHotplugScript:
    @both_stores
    def test_online_succeeds_and_a_second_one_changes_nothing(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal, settle: Callable[[], None]
    ) -> None:
        bed.host.bridge("xenbr0")
        daemon()
        web = guest("web", VifSpec(script=OURS))
        assert web.online().status == 0
        web.connect()
        settle()
        before = (bed.host.rtnl.index(web.vif.netdev), _carrier_changes(web.vif.netdev))

        with LinkNews(bed.host) as news:
            assert web.online().status == 0
            settle()
            changed = [link for link in news.of(web.vif.netdev) if not link.up or not link.master]
        assert changed == []
        assert (bed.host.rtnl.index(web.vif.netdev), _carrier_changes(web.vif.netdev)) == before
        assert len(journal.having(XENNET_EVENT="attach", XENNET_VIF=web.vif.netdev)) == 1

    def test_online_fails_with_the_sentence_that_says_why(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
        daemon()
        web = guest("web", VifSpec(script=OURS, bridge="nowhere"))
        result = web.online()
        assert result.status == 1
        assert 'bridge "nowhere" does not exist' in result.output
        assert result.seconds < 2


def test_a_second_state_2_changes_nothing(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal, settle: Callable[[], None]
) -> None:
    bed.host.bridge("xenbr0")
    daemon()
    web = guest("web")
    connected(bed, web.vif)
    settle()  # and the kernel has told of the carrier, too
    with LinkNews(bed.host) as news:
        bed.toolstack.xs.write(f"{web.vif.backend}/state", "2")
        settle()
        assert news.of(web.vif.netdev) == []
    assert len(journal.having(XENNET_EVENT="attach", XENNET_VIF=web.vif.netdev)) == 1


class TestWhatIsNotOurs:
    def test_a_backend_whose_script_is_not_ours_is_only_watched(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal, settle: Callable[[], None]
    ) -> None:
        # given: a vif of the stock script's, one of nobody's, and links that look like vifs but belong to no backend
        bed.host.bridge("xenbr0")
        xennetd = daemon()
        settle()
        strangers = [guest("stock", VifSpec(script="vif-bridge")), guest("own", VifSpec(script="/opt/vif-own"))]
        wire = bed.host.guest("wire")
        bed.host.rtnl.add_veth("vif900.0", "eth0", wire.fd, altname="vif-900-0")
        bed.host.rtnl.add_veth("veth-other", "eth1", wire.fd)
        for name in ("vif900.0", "veth-other", strangers[0].vif.netdev):
            bed.host.rtnl.set(name, up=True, master="xenbr0")
        bed.host.rtnl.add_address(strangers[1].vif.netdev, "192.0.2.1/24")
        before, nodes = bed.host.links(), [bed.toolstack.xs.tree(stranger.vif.backend) for stranger in strangers]

        # when
        with LinkNews(bed.host) as news:
            web = guest("web")
            connected(bed, web.vif)
            for stranger in strangers:
                bed.toolstack.xs.write(f"{stranger.vif.backend}/state", "2")
            settle()
            # The kernel tells late of carriers: only what shows another link than before is somebody's doing. One with
            # a name like "new…" is a guest's before it has its own.
            changed = [seen for seen in news.drain() if not (seen.name.startswith("new") or _as_in(before, seen))]
            touched = {seen.name for seen in changed}

        # then
        assert touched <= {web.vif.netdev, "eth0", "xenbr0", "vif32000.0"}
        after = bed.host.links()
        assert {name: _settings(after[name]) for name in before} == {n: _settings(link) for n, link in before.items()}
        assert [bed.toolstack.xs.tree(stranger.vif.backend) for stranger in strangers] == nodes
        states = {row["vif"]: (row["state"], row["reason"]) for row in xennetd.ask("list")}
        assert states[strangers[0].vif.netdev] == ("ignored", "its script vif-bridge is not xennetd's")
        assert states[strangers[1].vif.netdev] == ("ignored", "its script vif-own is not xennetd's")
        assert "vif900.0" not in states
        assert not journal.having(XENNET_VIF=strangers[0].vif.netdev)

    def test_the_scripts_that_are_ours_are_configured(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
        bed.host.bridge("xenbr0")
        daemon('[daemon]\nstand_in = true\nscripts = ["vif-own*"]\n')
        connected(bed, guest("own", VifSpec(script="/opt/vif-own-2")).vif)


def _as_in(links: dict[str, dict[str, Any]], seen: Seen) -> bool:
    """Whether a link is in the state in which it was among these."""
    link = links.get(seen.name)
    master = next((name for name, other in links.items() if other["ifindex"] == seen.master), None)
    return link is not None and (seen.up, master, seen.mtu, seen.address, seen.gone) == (
        "UP" in link["flags"],
        link.get("master"),
        link["mtu"],
        link["address"],
        False,
    )


class TestTheBridgeWithoutAPolicy:
    def test_no_bridge_node_means_the_first_bridge(self, bed: Bed, daemon: MakeDaemon) -> None:
        for name in ("xenbr1", "br0", "br1"):
            bed.host.bridge(name)
        daemon()
        vif = bed.toolstack.add_vif(bed.toolstack.create_domain("web"))
        bed.toolstack.xs.rm(f"{vif.backend}/bridge")
        bed.netback.probe(vif)
        bed.netback.create(vif, bed.host.guest("web"))
        connected(bed, vif)
        assert bed.host.links()[vif.netdev]["master"] == "br0"

    def test_xenbr_means_eth_where_that_is_a_bridge(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
        bed.host.bridge("eth3")
        daemon()
        web = guest("web", VifSpec(bridge="xenbr3"))
        connected(bed, web.vif)
        assert bed.host.links()[web.vif.netdev]["master"] == "eth3"

    def test_xenbr_means_itself_where_it_exists(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
        bed.host.bridge("eth3")
        bed.host.bridge("xenbr3")
        daemon()
        web = guest("web", VifSpec(bridge="xenbr3"))
        connected(bed, web.vif)
        assert bed.host.links()[web.vif.netdev]["master"] == "xenbr3"

    def test_eth_that_is_no_bridge_is_none(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
        bed.host.bridge("other")
        bed.host.uplink("other", "eth3")
        daemon()
        web = guest("web", VifSpec(bridge="xenbr3"))
        assert refused(bed, web.vif).startswith('bridge "xenbr3" does not exist')


def test_attaching_others_does_not_disturb_a_guest(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, bystander: Bystander
) -> None:
    daemon()
    bystander.connect()
    for number in range(5):
        connected(bed, guest(f"web-{number}").vif)
    assert bystander.is_undisturbed()


def _carrier_changes(name: str) -> str:
    return Path(f"/sys/class/net/{name}/carrier_changes").read_text()


def _settings(link: dict[str, Any]) -> dict[str, Any]:
    """A link without what changes by itself: the bridge's timers, and its carrier, which a guest may bring it."""
    settings = {key: value for key, value in link.items() if key not in ("linkinfo", "operstate")}
    return settings | {"flags": [flag for flag in link["flags"] if flag not in ("LOWER_UP", "NO-CARRIER")]}
