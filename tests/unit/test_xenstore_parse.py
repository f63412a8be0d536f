"""From raw nodes to a Vif: any bytes give a Vif, bad ones give a fault that says what would have been right."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xennetd.model.vif import Vif, VifId, XenbusState
from xennetd.xenstore.parse import NODES, parse_id, parse_vif, update_vif

VIF = VifId(7, 0)
LIBXL = {
    "frontend": b"/local/domain/7/device/vif/0",
    "online": b"1",
    "state": b"2",
    "script": b"/etc/xen/scripts/vif-xennetd",
    "mac": b"00:16:3E:01:02:03",
    "bridge": b"xenbr0",
    "handle": b"0",
    "type": b"vif",
    "hotplug-status": b"",
}
UUID = "3f8c1c5e-5a3b-4c62-9b51-0c8e2f7a1d44"

hostile = st.one_of(
    st.none(),
    st.binary(max_size=300),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"x" * 2048, b"x" * 2049, b"9" * 5000, b"\x1b[31m", b"a\nb", b"\0", b" ", b"1\n", b"\xd9\xa3"]),
    st.sampled_from(list(LIBXL.values())),
)


def parse(**nodes: bytes | None) -> Vif:
    return parse_vif(VIF, {**LIBXL, **{name.replace("_", "-"): value for name, value in nodes.items()}})


def fault(**nodes: bytes) -> str:
    [found] = parse(**nodes).faults
    assert found.node in nodes
    return found.sentence


@given(st.dictionaries(st.sampled_from(NODES), hostile), hostile, hostile)
def test_any_bytes_give_a_vif_that_is_safe_to_show(
    nodes: dict[str, bytes | None], name: bytes | None, vm: bytes | None
) -> None:
    vif = parse_vif(VIF, nodes, name, vm)
    for attribute in Vif.__struct_fields__:
        text = str(getattr(vif, attribute))
        assert text.isascii()
        assert text.isprintable()
    for found in vif.faults:
        assert len(found.sentence) < 300
        assert found.sentence.startswith(f"{found.node} is ")


changing = st.sampled_from(
    ["state", "state", "hotplug-status", "hotplug-error", "xennetd-tap", "xennetd-pin", "online"]
)
states = st.one_of(hostile, st.sampled_from([b"%d" % number for number in range(10)]))


@given(st.dictionaries(st.sampled_from(NODES), states), st.dictionaries(changing, states))
def test_an_update_gives_what_parsing_everything_gives(
    nodes: dict[str, bytes | None], new: dict[str, bytes | None]
) -> None:
    before, after = {**LIBXL, **nodes}, {**LIBXL, **nodes, **new}
    changed = [node for node in after if after[node] != before.get(node)]
    updated = update_vif(parse_vif(VIF, before, b"web", None, b"1500"), after, changed)
    assert updated in (None, parse_vif(VIF, after, b"web", None, b"1500"))


@pytest.mark.parametrize(("node", "value"), [("state", b"4"), ("hotplug-status", b"connected"), ("xennetd-pin", b"1")])
def test_an_update_shares_what_has_not_changed(node: str, value: bytes) -> None:
    before = parse(ip=b"192.0.2.7", mtu=b"9000", type=b"nonsense")
    updated = update_vif(before, {**LIBXL, node: value}, [node])
    assert updated is not None
    assert updated != before
    assert updated.ips is before.ips
    assert updated.faults is before.faults


@pytest.mark.parametrize(("node", "value"), [("online", b"0"), ("mac", b""), ("state", b"nine"), ("state", None)])
def test_a_node_that_can_be_faulty_is_parsed_with_all_others(node: str, value: bytes | None) -> None:
    assert update_vif(parse(), {**LIBXL, node: value}, [node]) is None


def test_what_libxl_writes() -> None:
    nodes = {
        **LIBXL, "type": b"vif_ioemu", "ip": b"192.0.2.7 2001:db8::7/64 10.0.0.1/8", "mtu": b"9000", "vlan": b"10p/20",
        "vifname": b"web0", "gatewaydev": b"eth0", "hotplug-status": b"connected",
        "xennetd-tap": b'error: mtu is "abc"',
    }  # fmt: skip
    assert parse_vif(VIF, nodes, b"web", b"/vm/" + UUID.encode()) == Vif(
        id=VIF,
        state=XenbusState.INIT_WAIT,
        online=True,
        script="/etc/xen/scripts/vif-xennetd",
        frontend="/local/domain/7/device/vif/0",
        type="vif_ioemu",
        mac="00:16:3e:01:02:03",
        bridge="xenbr0",
        ips=(IPv4Interface("192.0.2.7/32"), IPv6Interface("2001:db8::7/64"), IPv4Interface("10.0.0.1/8")),
        mtu=9000,
        vlan="10p/20",
        vifname="web0",
        gatewaydev="eth0",
        vm="web",
        uuid=UUID,
        hotplug_status="connected",
        tap_status='error: mtu is "abc"',
    )


@pytest.mark.parametrize("value", [None, b""])
def test_empty_is_absent_and_no_fault(value: bytes | None) -> None:
    vif = parse_vif(VIF, dict.fromkeys(NODES, value), value, value)
    assert vif == Vif(id=VIF, state=XenbusState.UNKNOWN, online=False)


@pytest.mark.parametrize("value", [b"abc", b"67", b"65536", b"0x5dc", b"-1500", b"+99", b"1_500", b" 99", b"1" * 2000])
def test_mtu_must_be_a_number_in_range(value: bytes) -> None:
    assert fault(mtu=value).endswith(": must be a number from 68 to 65535")
    assert parse(mtu=value).mtu is None


@pytest.mark.parametrize("value", [b"68", b"65535"])
def test_mtu_at_its_limits(value: bytes) -> None:
    assert parse(mtu=value).mtu == int(value)


def test_the_sentence_says_what_was_found() -> None:
    assert fault(mtu=b"abc") == 'mtu is "abc": must be a number from 68 to 65535'
    assert fault(bridge=b"a\n\x1b[31mb") == 'bridge is "a\\n\\x1b[31mb": must be printable ASCII'


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"00:16:3e:01:02", "six hexadecimal bytes"),
        (b"00-16-3e-01-02-03", "six hexadecimal bytes"),
        (b"00:16:3e:01:02:0g", "six hexadecimal bytes"),
        (b"00:16:3e:01:02:03\n", "printable ASCII"),
        (b"01:16:3e:01:02:03", "multicast"),
        (b"ff:ff:ff:ff:ff:ff", "multicast"),
        (b"00:00:00:00:00:00", "all zeroes"),
    ],
)
def test_mac_must_be_a_guests(value: bytes, says: str) -> None:
    assert says in fault(mac=value)
    assert parse(mac=value).mac is None


def test_vifname_leaves_room_for_the_taps_suffix() -> None:
    assert parse(vifname=b"x" * 15).vifname == "x" * 15
    assert "at most 15 characters" in fault(vifname=b"x" * 16)
    assert parse(type=b"vif_ioemu", vifname=b"x" * 11).tap_name == "x" * 11 + "-emu"
    assert "at most 11 characters long, because its tap's name has -emu after it" in fault(
        type=b"vif_ioemu", vifname=b"x" * 12
    )


@pytest.mark.parametrize("value", [b".", b"..", b"a/b", b"a b", b"a:b", b"a%d", b"a'b", b'a"b', b"a\\b"])
def test_vifname_must_be_a_links_name(value: bytes) -> None:
    assert "a link's name" in fault(vifname=value)


@pytest.mark.parametrize("value", [b"vif9.0", b"vif7.1", b"vif7.0-emu", b"vif9.0-emu"])
def test_vifname_must_not_be_anothers_own_name(value: bytes) -> None:
    assert "another interface" in fault(vifname=value)


@pytest.mark.parametrize("value", [b"all", b"default"])
def test_vifname_must_not_be_what_stands_for_all_links(value: bytes) -> None:
    assert "neither all nor default" in fault(vifname=value)


def test_vifname_may_be_the_name_it_has_anyway() -> None:
    assert parse(vifname=b"vif7.0").link_name == "vif7.0"
    assert parse(vifname=b"vif9.0x").link_name == "vif9.0x"


@pytest.mark.parametrize(
    "word",
    ["x", "10.0.0.256", "10.0.0.1/33", "::/129", "fe80::1%eth0", "10.0.0.1/255.0.0.0", "10.0.0.1/", "1", "10.0.0.1,"],
)
def test_one_bad_address_spoils_them_all(word: str) -> None:
    assert f"{word} must be an IPv4 or IPv6 address" in fault(ip=f"192.0.2.7 {word}".encode())
    assert parse(ip=f"192.0.2.7 {word}".encode()).ips == ()


@given(st.lists(st.ip_addresses(), max_size=20))
def test_addresses_are_separated_by_blanks(addresses: list[object]) -> None:
    vif = parse(ip="  ".join(map(str, addresses)).encode())
    assert (vif.ips, vif.faults) == (tuple(ip_interface(str(address)) for address in addresses), ())


@pytest.mark.parametrize("node", ["rate", "handle"])
def test_what_only_netback_reads_is_nothing_to_us(node: str) -> None:
    assert node not in NODES
    assert parse(**{node: b"\xff"}) == parse(**{node: None}) == parse()


def test_what_a_node_may_hold() -> None:
    assert "at most 255 characters" in fault(bridge=b"b" * 256)
    assert "without blanks" in fault(bridge=b"xenbr0 xenbr1")
    assert parse(bridge=b"ovs0.10:20:30").bridge == "ovs0.10:20:30"
    assert "at most 255 characters" in fault(vlan=b"1" * 256)
    assert "vif or vif_ioemu" in fault(type=b"tap")
    assert "0 or 1" in fault(online=b"yes")
    assert "from 0 to 8" in fault(state=b"9")
    assert "a link's name" in fault(gatewaydev=b"eth0 eth1")
    assert "at most 2048 bytes long, not 2049" in fault(script=b"/" * 2049)


def test_unusable_state_and_online_are_the_careful_guess() -> None:
    assert parse(state=b"two").state is XenbusState.UNKNOWN
    assert parse(online=b"yes").removing


@pytest.mark.parametrize("suffix", ["", "--incoming", "--migratedaway"])
def test_a_migrating_domain_keeps_its_name(suffix: str) -> None:
    assert parse_vif(VIF, LIBXL, f"web{suffix}".encode()).vm == "web"


def test_names_that_do_not_print_are_escaped() -> None:
    assert parse_vif(VIF, LIBXL, b'bob\'s "vm"').vm == 'bob\'s "vm"'
    assert parse_vif(VIF, LIBXL, b"a\nb").vm == "a\\nb"


@pytest.mark.parametrize("value", [b"/vm/", b"/vm/1", UUID.encode(), b"/vm/" + UUID.encode() + b"\n", b"\xff"])
def test_without_a_uuid_there_is_none(value: bytes) -> None:
    assert parse_vif(VIF, LIBXL, None, value).uuid is None


def test_the_verdicts_are_never_faults() -> None:
    vif = parse(hotplug_status=b"\xff\n", xennetd_tap=b"x" * 5000)
    assert vif.faults == ()
    assert vif.tap_status is not None
    assert len(vif.tap_status) <= 255


@pytest.mark.parametrize(
    ("domid", "devid"),
    [("07", "0"), ("7", "-1"), ("7", ""), ("x", "0"), ("1\u0667", "0"), ("32752", "0"), ("7", "100000")],
)
def test_directories_that_are_no_vifs(domid: str, devid: str) -> None:
    assert parse_id(domid, devid) is None


def test_a_directory_that_is_a_vif() -> None:
    assert parse_id("32751", "0") == VifId(32751, 0)
