"""The rtnetlink codec: what it makes of messages, and that it takes any bytes without another error than its own."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from ipaddress import IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xennetd.kernel import netlink, rtnl, rtnl_ip
from xennetd.kernel.links import DEFAULT_ROUTES, LinkChange, Links
from xennetd.kernel.netlink import NetlinkFormatError
from xennetd.model.value import replace
from xennetd.model.vif import VifId


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def link_message(
    index: int, name: str, *attributes: bytes, kind: int = rtnl.RTM_NEWLINK, family: int = 0, flags: int = 0x1003
) -> bytes:
    body = struct.pack("=BxHiII", family, 1, index, flags, 0) + attribute(3, name.encode() + b"\0")
    body += b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def address_message(index: int, address: bytes, prefix: int, *, gone: bool = False) -> bytes:
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    body = struct.pack("=BBBBI", family, prefix, 0, 0, index) + attribute(1, address)
    kind = rtnl_ip.RTM_DELADDR if gone else rtnl_ip.RTM_NEWADDR
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def setting_message(index: int) -> bytes:
    body = struct.pack("=Bxxx", socket.AF_INET) + attribute(1, struct.pack("=i", index))
    return struct.pack("=IHHII", 16 + len(body), rtnl_ip.RTM_NEWNETCONF, 0, 0, 0) + body


def route_message(index: int, destination: bytes, *attributes: bytes, gone: bool = False, **header: int) -> bytes:
    family = socket.AF_INET6 if len(destination) == 16 else socket.AF_INET
    length, table, protocol = header.get("length", 8 * len(destination)), header.get("table", 254), 120
    body = struct.pack("=BBBBBBBBI", family, length, 0, 0, table, header.get("protocol", protocol), 253, 1, 0)
    body += (attribute(4, struct.pack("=I", index)) if index else b"") + attribute(6, struct.pack("=I", 2))
    body += b"".join(attributes)
    body += attribute(1, destination) if length else b""
    kind = rtnl_ip.RTM_DELROUTE if gone else rtnl_ip.RTM_NEWROUTE
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


GUEST = b"\x0a\x09\x00\x05"
GATEWAY = b"\xc0\x00\x02\x01"
MASTER_2 = attribute(10, struct.pack("=I", 2))
ALT_NAME = attribute(52 | 0x8000, attribute(53, b"vif-7-0\0"))
PARENT = attribute(56, b"vif-7-0\0") + attribute(57, b"xen-backend\0")
PCI = attribute(56, b"vif-7-0\0") + attribute(57, b"pci\0")


def fed(*messages: bytes, stand_in: bool = False) -> Links:
    links = Links(stand_in=stand_in)
    links.feed(messages)
    return links


def test_a_renamed_link_is_found_by_its_parent_device() -> None:
    link = fed(link_message(9, "web0", PARENT)).of(VifId(7, 0))
    assert link is not None
    assert link.name == "web0"


def test_another_bus_names_no_vif() -> None:
    assert fed(link_message(9, "web0", PCI)).of(VifId(7, 0)) is None


def test_an_alternative_name_is_a_parent_device_only_where_it_may_stand_in() -> None:
    assert fed(link_message(9, "web0", ALT_NAME)).of(VifId(7, 0)) is None
    assert fed(link_message(9, "web0", ALT_NAME), stand_in=True).of(VifId(7, 0)) is not None


def test_the_name_of_a_vif_on_a_link_of_another_vif_does_not_count() -> None:
    assert fed(link_message(9, "vif8.0", PARENT)).of(VifId(8, 0)) is None


def test_a_rename_leaves_no_trace_of_the_old_name() -> None:
    links = fed(link_message(9, "vif7.0"), link_message(9, "web0"))
    assert links.link("vif7.0") is None
    assert links.link("web0") is not None


def test_a_name_that_another_link_took_over_stays_with_it() -> None:
    links = fed(link_message(9, "vif7.0"))
    links.feed([link_message(10, "vif7.0")])
    links.feed([link_message(9, "old", kind=rtnl.RTM_DELLINK)])
    link = links.link("vif7.0")
    assert link is not None
    assert link.index == 10


def test_an_index_that_is_used_again_is_another_link() -> None:
    links = fed(link_message(9, "vif7.0"))
    first = links.link("vif7.0")
    links.feed([link_message(9, "vif7.0", kind=rtnl.RTM_DELLINK), link_message(9, "vif7.0")])
    second = links.link("vif7.0")
    assert first is not None
    assert second is not None
    assert first.generation != second.generation


def test_a_link_that_came_and_went_between_two_reads_is_no_news() -> None:
    links = Links()
    assert links.feed([link_message(9, "a"), link_message(9, "a", kind=rtnl.RTM_DELLINK)]) == []


def test_uplinks_are_the_ports_that_are_no_guests() -> None:
    links = fed(
        link_message(3, "eth0", MASTER_2),
        link_message(4, "vif7.0", MASTER_2),
        link_message(5, "web0", MASTER_2, PARENT),
        link_message(6, "web0-emu", MASTER_2, attribute(18, attribute(1, b"tun\0"))),
    )
    assert [link.name for link in links.uplinks(2)] == ["eth0"]
    links.feed([link_message(3, "eth0")])
    assert links.uplinks(2) == ()


def test_addresses_follow_their_link() -> None:
    links = fed(link_message(9, "vif7.0"), address_message(9, b"\xc0\x00\x02\x01", 24))
    links.feed([address_message(9, socket.inet_pton(socket.AF_INET6, "fe80::1"), 64)])
    link = links.link("vif7.0")
    assert link is not None
    assert link.addresses == (IPv4Interface("192.0.2.1/24"), IPv6Interface("fe80::1/64"))
    links.feed([link_message(9, "vif7.0", MASTER_2), address_message(9, b"\xc0\x00\x02\x01", 24, gone=True)])
    link = links.link("vif7.0")
    assert link is not None
    assert link.addresses == (IPv6Interface("fe80::1/64"),)


def test_a_route_is_on_the_link_that_it_was_last_moved_to() -> None:
    links = fed(link_message(9, "vif7.0"), link_message(10, "vif8.0"), route_message(9, GUEST))
    links.feed([route_message(10, GUEST)])  # replaced: nothing is told of the older one
    links.feed([route_message(9, GUEST, gone=True)])  # too late
    assert links.routed(IPv4Network("10.9.0.5/32"), 2) == links.link("vif8.0")
    assert [len(link.routes) for link in map(links.by_index, (9, 10)) if link] == [0, 1]


def test_a_link_that_was_down_between_two_reads_has_lost_its_routes() -> None:
    links = fed(link_message(9, "vif7.0"), route_message(9, GUEST))
    links.feed([link_message(9, "vif7.0", flags=0), link_message(9, "vif7.0")])
    assert links.routed(IPv4Network("10.9.0.5/32"), 2) is None
    links.feed([route_message(9, GUEST), link_message(9, "vif7.0", flags=0), route_message(9, GUEST[::-1])])
    link = links.link("vif7.0")
    assert link is not None
    assert {str(route.destination) for route in link.routes} == {"5.0.9.10/32"}


def test_an_index_that_is_used_again_has_nothing_of_the_link_before() -> None:
    links = fed(link_message(9, "vif7.0"), address_message(9, GATEWAY, 32), route_message(9, GUEST))
    links.feed([link_message(9, "vif7.0", kind=rtnl.RTM_DELLINK), link_message(9, "vif8.0")])
    link = links.link("vif8.0")
    assert link is not None
    assert (link.addresses, link.routes) == ((), frozenset())
    assert links.owner(IPv4Network("192.0.2.1/32")) is None


def test_routes_are_doubted_when_the_last_of_their_source_address_goes() -> None:
    source = attribute(7, GATEWAY)
    links = fed(
        link_message(2, "eth0"),
        link_message(9, "vif7.0"),
        address_message(2, GATEWAY, 24),
        address_message(9, GATEWAY, 32),
        address_message(9, GUEST[::-1], 32),
        route_message(9, GUEST, source),
    )
    links.feed([address_message(9, GATEWAY, 32, gone=True)])
    assert not links.stale.routes
    links.feed([address_message(2, GATEWAY, 24, gone=True)])  # before Linux 6.7 that is all there is
    assert links.stale.routes
    links.reload_routes([])
    assert not links.stale.routes
    assert links.routed(IPv4Network("10.9.0.5/32"), 2) is None


def test_proxies_are_doubted_whatever_the_kernel_drops_them_with() -> None:
    links = fed(link_message(2, "eth0"), address_message(2, GATEWAY, 24))
    for happened in (
        [link_message(2, "eth0", flags=0)],
        [link_message(2, "eth0")],
        [link_message(2, "eth0", flags=0), link_message(2, "eth0")],  # all is as before
        [address_message(2, GATEWAY, 24, gone=True), address_message(2, GATEWAY, 24)],
    ):
        links.stale.proxies.clear()
        links.feed(happened)
        assert links.stale.proxies == {2}
    links.stale.proxies.clear()
    links.feed([link_message(2, "eth0"), link_message(9, "vif7.0")])
    assert links.stale.proxies == set()
    links.feed([link_message(2, "eth0", kind=rtnl.RTM_DELLINK)])
    assert links.stale.proxies == {2}


def test_an_address_on_a_link_that_is_down_holds_no_route() -> None:
    links = fed(link_message(2, "eth0", flags=0), link_message(9, "vif7.0"), address_message(2, GATEWAY, 24))
    links.feed([address_message(9, GUEST[::-1], 32), address_message(9, GATEWAY, 32)])
    links.feed([route_message(9, GUEST, attribute(7, GATEWAY)), address_message(9, GATEWAY, 32, gone=True)])
    assert links.stale.routes


def test_a_link_without_any_ipv4_address_any_more_has_lost_its_routes() -> None:
    links = fed(link_message(9, "vif7.0"), address_message(9, GATEWAY, 32), route_message(9, GUEST))
    links.feed([address_message(9, GATEWAY, 32, gone=True)])  # that is all there is
    assert links.routed(IPv4Network("10.9.0.5/32"), 2) is None
    link = links.link("vif7.0")
    assert link is not None
    assert link.routes == frozenset()


def test_a_setting_is_news_of_its_link_alone_and_one_of_all_links_of_the_host() -> None:
    links = fed(link_message(9, "vif7.0"), link_message(10, "vif8.0"))
    vif7 = links.link("vif7.0")
    assert links.feed([setting_message(9), setting_message(-2)]) == [LinkChange(vif7, vif7)]  # -2: `default`
    assert links.feed([setting_message(9), setting_message(-1)]) == [LinkChange(vif7, vif7), DEFAULT_ROUTES]


def test_foreign_routes_are_none_of_ours() -> None:
    links = fed(link_message(9, "vif7.0"))
    via = attribute(5, GATEWAY)
    messages = [
        route_message(9, GUEST, protocol=4),
        route_message(9, GUEST, table=253),
        route_message(9, GUEST, via),
    ]
    assert links.feed(messages) == []


def test_a_default_route_is_looked_up_and_each_change_of_it_told() -> None:
    links = fed(link_message(2, "eth0"), link_message(3, "eth1"))
    default = route_message(2, GUEST, length=0, protocol=16)
    links.feed([default])
    assert links.stale.routes
    assert links.reload_routes([default]) == [DEFAULT_ROUTES]
    assert links.reload_routes([default]) == []
    assert links.reload_routes([route_message(3, GUEST, length=0, protocol=16)]) == [DEFAULT_ROUTES]
    through = route_message(3, GUEST, attribute(5, GATEWAY), length=0, protocol=16)
    assert links.reload_routes([through]) == [DEFAULT_ROUTES]
    links.feed([link_message(3, "eth1", kind=rtnl.RTM_DELLINK)])
    assert links.stale.routes
    assert links.reload_routes([]) == [DEFAULT_ROUTES], "although nobody knows its link any more"


TWO_HOPS = b"".join(
    struct.pack("=HBBi", 16, 0, 0, index) + attribute(5, router) for index, router in ((3, GATEWAY), (2, GUEST))
)
VIA_IPV6 = struct.pack("=H", socket.AF_INET6) + IPv6Address("fe80::1").packed


@pytest.mark.parametrize(
    ("index", "hops", "routers"),
    [
        (3, attribute(5, GATEWAY), {"192.0.2.1"}),
        (3, attribute(18, VIA_IPV6), {"fe80::1"}),
        (0, attribute(9, TWO_HOPS), {"192.0.2.1", "10.9.0.5"}),
        (3, b"", set()),
    ],
    ids=["a router", "one of the other family", "two hops", "no router"],
)
def test_where_a_default_route_leads(index: int, hops: bytes, routers: set[str]) -> None:
    links = fed(link_message(2, "eth0"), link_message(3, "eth1"))
    links.reload_routes([route_message(index, GUEST, hops, length=0, protocol=16)])
    assert links.default_uplink(4) == links.link("eth1")
    possible = ["192.0.2.1", "10.9.0.5", "fe80::1", "192.0.2.2"]
    assert {each for each in possible if str(links.router(ip_network(each))) == each} == routers


def test_a_guest_that_is_the_hosts_router_is_not_in_its_own_way() -> None:
    links = fed(link_message(9, "vif7.0", PARENT))
    links.reload_routes([route_message(9, GUEST, attribute(5, GATEWAY), length=0, protocol=16)])
    assert links.router(IPv4Network("192.0.2.1")) is None


def port_flag(kind: int, *, on: bool) -> bytes:
    return attribute(12 | 0x8000, attribute(kind, bytes([on])))


def port_data(*flags: bytes, master_kind: bytes = b"bridge\0") -> bytes:
    """What a link's own message says of it as a port."""
    slave = attribute(4, master_kind) + attribute(5 | 0x8000, b"".join(flags))
    return MASTER_2 + attribute(18 | 0x8000, attribute(1, b"veth\0") + slave)


def test_a_port_message_of_the_bridge_changes_the_port_and_nothing_else() -> None:
    links = fed(link_message(9, "vif7.0", MASTER_2))
    before = links.link("vif7.0")
    assert before is not None
    for on, flags_on in ((True, frozenset({"isolated"})), (False, frozenset[str]())):
        links.feed([link_message(9, "vif7.0", port_flag(33, on=on), family=7)])
        assert links.link("vif7.0") == replace(before, flags_on=flags_on)


def flags_on(links: Links) -> frozenset[str]:
    link = links.link("vif7.0")
    assert link is not None
    return link.flags_on


def test_a_port_message_that_does_not_mention_a_flag_leaves_it() -> None:
    links = fed(link_message(9, "vif7.0", MASTER_2), link_message(9, "vif7.0", port_flag(33, on=True), family=7))
    learning = link_message(9, "vif7.0", port_flag(8, on=False), family=7)
    assert links.feed([learning, link_message(9, "vif7.0", family=7)]) == []
    assert flags_on(links) == {"isolated"}


def test_a_links_own_message_says_which_flags_of_a_bridges_port_are_on() -> None:
    on, off = (attribute(33, bytes([value])) for value in (1, 0))
    assert flags_on(fed(link_message(9, "vif7.0", port_data(on)))) == {"isolated"}
    assert flags_on(fed(link_message(9, "vif7.0", port_data(off)))) == set()
    assert flags_on(fed(link_message(9, "vif7.0", port_data(on, master_kind=b"bond\0")))) == set()


def test_of_both_kinds_of_message_the_later_one_counts() -> None:
    own_on, own_off = (link_message(9, "vif7.0", port_data(attribute(33, bytes([value])))) for value in (1, 0))
    port_on, port_off = (link_message(9, "vif7.0", port_flag(33, on=on), family=7) for on in (True, False))
    assert flags_on(fed(own_off, port_on)) == flags_on(fed(port_off, own_on)) == {"isolated"}
    assert flags_on(fed(own_on, port_off)) == flags_on(fed(port_on, own_off)) == set()


def test_a_link_that_leaves_its_bridge_has_no_flags() -> None:
    links = fed(link_message(9, "vif7.0", port_data(attribute(33, b"\1"))))
    links.feed([link_message(9, "vif7.0")])
    assert flags_on(links) == set()
    links.feed([link_message(9, "vif7.0", port_flag(33, on=True), family=7)])  # too late
    assert flags_on(links) == set()


def test_a_dump_tells_what_went_while_nobody_looked() -> None:
    links = fed(link_message(3, "eth0"), link_message(9, "vif7.0"))
    changes = links.load([link_message(3, "eth0")])
    assert [(change.old.name if change.old else None, change.new) for change in changes] == [("vif7.0", None)]


def test_a_refusal_carries_errno_and_the_kernels_own_words() -> None:
    inner = struct.pack("=IHHII", 32, rtnl.RTM_SETLINK, 5, 77, 0)
    body = struct.pack("=i", -17) + inner + attribute(1, b"name taken\0")
    flags = netlink.NLM_F_CAPPED | netlink.NLM_F_ACK_TLVS
    data = struct.pack("=IHHII", 16 + len(body), netlink.NLMSG_ERROR, flags, 77, 0) + body
    (message,) = netlink.headers(data)
    assert netlink.parse_ack(data, message) == netlink.Ack(17, "name taken")


@given(st.binary(max_size=300))
def test_any_bytes_are_links_or_a_format_error(data: bytes) -> None:
    with suppress(NetlinkFormatError):
        Links(stand_in=True).feed([data])


HEADS = st.one_of(
    st.binary(max_size=24),
    # As ndmsg, rtmsg and ifaddrmsg begin, so that more of what follows is read.
    st.tuples(st.sampled_from([2, 7, 10]), st.integers(0, 40)).map(
        lambda drawn: struct.pack("=BBBBBBBBI", drawn[0], drawn[1], 0, 0, 254, 120, 0x80, 1, 0)
    ),
)


@given(
    st.sampled_from([netlink.NLMSG_ERROR, rtnl.RTM_NEWLINK, rtnl.RTM_DELLINK, *range(rtnl_ip.RTM_NEWADDR, 30)]),
    st.sampled_from([0, netlink.NLM_F_ACK_TLVS, netlink.NLM_F_ACK_TLVS | netlink.NLM_F_CAPPED]),
    st.lists(st.tuples(st.integers(0, 60), st.binary(max_size=40)), max_size=8),
    HEADS,
)
def test_any_attributes_are_read_or_a_format_error(
    kind: int, flags: int, attributes: list[tuple[int, bytes]], head: bytes
) -> None:
    body = head + b"\0" * (-len(head) % 4) + b"".join(attribute(number, value) for number, value in attributes)
    data = struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body
    with suppress(NetlinkFormatError):
        for message in netlink.headers(data):
            netlink.parse_ack(data, message)
    for take in (Links(stand_in=True).feed, Links().load, Links().reload_routes):
        with suppress(NetlinkFormatError):
            take([data])
    with suppress(NetlinkFormatError):
        for message in netlink.headers(data):
            rtnl_ip.parse_proxy(data, message)


def test_a_truncated_message_is_a_format_error() -> None:
    with pytest.raises(NetlinkFormatError):
        list(netlink.headers(link_message(9, "vif7.0")[:-4]))
