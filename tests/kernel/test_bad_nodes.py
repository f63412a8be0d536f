"""A backend directory full of nonsense: a named error, the port down, nobody disturbed, nothing raw in any log.

One xennetd serves all of these tests, beside a guest that none of them may disturb.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest

from tests.bed.daemon import Daemon
from tests.bed.guest import Bed
from tests.bed.netns import Host
from tests.bed.systemd import Fields, Journal
from tests.bed.toolstack import Vif
from tests.bed.xenstored import Xenstored
from tests.kernel.conftest import Bystander, Fence, MakeDaemon, make_or_skip
from tests.kernel.verdict import connected, refused

Nodes = Mapping[str, str | bytes]

FAULTS: dict[str, tuple[Nodes, str]] = {
    "bridge missing": (
        {"bridge": "xenbr9"},
        'bridge "xenbr9" does not exist: create it, or correct bridge= in the domain\'s vif line',
    ),
    "not a bridge": ({"bridge": "lo"}, '"lo" is not a bridge: make it a bridge, or correct bridge= in the domain\'s'),
    "another guest's port for a bridge": ({"bridge": "vif31000.0"}, '"vif31000.0" is not a bridge'),
    "bridge too long": ({"bridge": "x" * 16}, '"xxxxxxxxxxxxxxxx" can\'t be the name of a bridge'),
    "bridge with a path in it": ({"bridge": "../../etc"}, '"../../etc" can\'t be the name of a bridge'),
    "bridge of 2 KB": ({"bridge": "x" * 2048}, 'bridge is "xxx'),
    "vlan": ({"vlan": "20"}, "vlan=20 can't be applied, since this xennetd does not support VLANs yet"),
    "vlan that can't be read": ({"vlan": "2\n0"}, 'vlan is "2\\n0": must be printable ASCII'),
    "vifname of all links": ({"vifname": "all"}, 'vifname is "all": must be a link\'s name, neither all nor default'),
    "vifname too long": ({"vifname": "x" * 16}, 'vifname is "xxxxxxxxxxxxxxxx": must be at most 15 characters long'),
    "vifname too long with -emu": (
        {"vifname": "x" * 12, "type": "vif_ioemu"},
        'vifname is "xxxxxxxxxxxx": must be at most 11 characters long, because its tap\'s name has -emu after it',
    ),
    "vifname with a slash": ({"vifname": "a/b"}, 'vifname is "a/b": must be a link\'s name'),
    "vifname with a blank": ({"vifname": "a b"}, 'vifname is "a b": must be a link\'s name'),
    "vifname a template": ({"vifname": "vif%d"}, 'vifname is "vif%d": must be a link\'s name'),
    "vifname of dots": ({"vifname": ".."}, 'vifname is "..": must be a link\'s name'),
    "vifname another vif's": ({"vifname": "vif31000.0"}, 'vifname is "vif31000.0": must not be the name'),
    "vifname taken": ({"vifname": "xenbr0"}, 'the interface name "xenbr0" is already in use on this host'),
    "mtu no number": ({"mtu": "jumbo"}, 'mtu is "jumbo": must be a number from 68 to 65535'),
    "mtu too small": ({"mtu": "67"}, 'mtu is "67": must be a number from 68 to 65535'),
    "mtu too large": ({"mtu": "65536"}, 'mtu is "65536": must be a number from 68 to 65535'),
    "mtu negative": ({"mtu": "-1500"}, 'mtu is "-1500": must be a number from 68 to 65535'),
    "mac malformed": ({"mac": "00:16:3e:00:00"}, 'mac is "00:16:3e:00:00": must be six hexadecimal bytes'),
    "mac multicast": ({"mac": "01:00:5e:00:00:01"}, 'mac is "01:00:5e:00:00:01": a multicast address'),
    "mac zero": ({"mac": "00:00:00:00:00:00"}, 'mac is "00:00:00:00:00:00": must not be all zeroes'),
    "type unknown": ({"type": "vif_new"}, 'type is "vif_new": must be vif or vif_ioemu'),
    "not UTF-8": ({"bridge": b"\xff\xfe\x80"}, 'bridge is "\\xff\\xfe\\x80": must be printable ASCII'),
    "newlines": ({"mac": "00:16:3e:00:00:01\nMESSAGE=forged"}, 'mac is "00:16:3e:00:00:01\\nMESSAGE=forged": must be'),
    "escapes": ({"vifname": "\x1b]0;pwned\x07"}, 'vifname is "\\x1b]0;pwned\\x07": must be printable ASCII'),
    "mtu of 2 KB": ({"mtu": "1" * 2048}, 'mtu is "111'),
    "above 2 KB": ({"mtu": "1" * 4000}, '...": must be at most 2048 bytes long, not 4000'),
}


@dataclass(slots=True)
class Stage:
    """A host with a running xennetd, its journal, and a guest that is connected."""

    bed: Bed
    xennetd: Daemon
    journal: Journal
    bystander: Bystander
    settle: Callable[[], None]

    def appear(self, nodes: Nodes, name: str | bytes = "bad") -> Vif:
        return appear(self.bed, nodes, name)

    def records(self, vif: Vif) -> list[Fields]:
        return self.journal.having(XENNET_VIF=vif.netdev)

    def remove(self, vif: Vif) -> None:
        self.bed.toolstack.forget_vif(vif)
        self.bed.netback.destroy(vif)


def appear(bed: Bed, nodes: Nodes, name: str | bytes = "bad") -> Vif:
    """A vif whose backend directory has these nodes from the beginning, at state 2 and with its link up."""
    domain = bed.toolstack.create_domain("bad")
    bed.toolstack.xs.write(f"{domain.path}/name", name)
    vif = bed.toolstack.add_vif(domain)
    for node, value in nodes.items():
        bed.toolstack.xs.write(f"{vif.backend}/{node}", value)
    bed.netback.create(vif, bed.host.guest(f"bad-{domain.domid}"))
    bed.host.rtnl.set(vif.netdev, up=True)
    bed.netback.probe(vif)
    return vif


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    xenstored = make_or_skip(Xenstored)
    host = make_or_skip(Host)
    bed = Bed(xenstored, host)
    bystander, journal = Bystander(bed), Journal()
    settle = Fence(bed, journal)
    xennetd = Daemon(xenstored, tmp_path_factory.mktemp("xennetd"))
    try:
        xennetd.start()
        bystander.connect()
        yield Stage(bed, xennetd, journal, bystander, settle)
    finally:
        xennetd.close()
        journal.close()
        bed.close()
        xenstored.close()
        host.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_named_error_and_nothing_else(stage: Stage, fault: str) -> None:
    nodes, sentence = FAULTS[fault]
    vif = stage.appear(nodes)

    # The toolstack and the journal are told, once.
    told = refused(stage.bed, vif)
    assert sentence in told
    stage.settle()
    (record,) = stage.records(vif)
    assert (record["XENNET_EVENT"], record["XENNET_ERROR"], record["PRIORITY"]) == ("error", told, "3")

    # The port is down and in no bridge, the other guest undisturbed.
    link = stage.bed.host.links()[vif.netdev]
    assert "UP" not in link["flags"]
    assert "master" not in link
    assert stage.bystander.is_undisturbed()

    # Nothing raw anywhere, and nothing without end.
    for text in (told, *record.values()):
        assert_harmless(text)
    assert len(told) < 300
    stage.remove(vif)


@pytest.mark.parametrize("node", ["mac", "ip", "mtu", "vlan", "vifname", "gatewaydev", "type", "bridge"])
def test_an_empty_node_is_an_absent_one(stage: Stage, node: str) -> None:
    vif = stage.appear({node: ""})
    connected(stage.bed, vif)
    assert stage.bed.host.links()[vif.netdev]["master"] == "xenbr0"
    stage.remove(vif)


@pytest.mark.parametrize("node", ["script", "state", "online", "frontend"])
@pytest.mark.parametrize(
    "value", [b"", b"\x1b[2J", b"\xff\n\0x", b"9" * 2048], ids=["empty", "escape", "bytes", "2 KB"]
)
def test_a_node_nobody_can_work_with_harms_nobody(stage: Stage, node: str, value: bytes) -> None:
    vif = stage.appear({})
    connected(stage.bed, vif)
    stage.bed.toolstack.xs.write(f"{vif.backend}/{node}", value)
    stage.settle()
    assert stage.bystander.is_undisturbed()
    assert not [fields for fields in stage.journal.entries if "EXCEPTION_TEXT" in fields]
    for record in stage.records(vif):
        assert_harmless("".join(record.values()))
    stage.remove(vif)


@pytest.mark.parametrize(
    "name",
    [b"", b"\x1b]0;pwned\x07", b"\xff\xfe\n\nXENNET_VM=dom0", b"x" * 2048],
    ids=["empty", "escape", "bytes", "2 KB"],
)
def test_a_domains_name_reaches_no_log_raw(stage: Stage, name: bytes) -> None:
    vif = stage.appear({}, name)
    connected(stage.bed, vif)
    record = stage.journal.wait_for(XENNET_EVENT="attach", XENNET_VIF=vif.netdev)
    assert_harmless("".join(record.values()))
    assert len(record.get("XENNET_VM", "")) <= 255
    stage.remove(vif)


def test_no_terminal_is_told_anything_raw(stage: Stage) -> None:
    evil = b"\x1b]0;pwned\x07\xff\n\r\x9b2J"
    vifs = [stage.appear({node: evil}, evil) for node in ("bridge", "mac", "vlan", "script", "vifname")]
    stage.settle()
    listing = stage.xennetd.ctl("list").stdout
    shown = [stage.xennetd.ctl("show", vif.netdev).stdout for vif in vifs]
    programs = [stage.xennetd.ctl(*verb, "--json").stdout for verb in (["list"], ["status"])]
    for text in (listing, *shown, *programs, stage.xennetd.ctl("status").stdout):
        assert_harmless(text)
    for vif in vifs:
        assert listing.count(f"\n{vif.netdev} ") == 1
        stage.remove(vif)


def test_without_a_journal_nothing_raw_goes_to_stderr(bed: Bed, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0")
    xennetd = daemon()
    refused(bed, appear(bed, {"bridge": "\x1b[2J\n"}, b"\x1b]0;pwned\x07\xff\n"))
    assert xennetd.ctl("list").returncode == 0
    assert "XENNET_EVENT=error" in xennetd.stderr()
    assert_harmless(xennetd.stderr())


def assert_harmless(text: str) -> None:
    """Nothing that a terminal obeys, no line that someone else has begun."""
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", text), ascii(text)
    assert not re.search(r"^(MESSAGE=forged|XENNET_VM=dom0|2J)", text, re.MULTILINE)
