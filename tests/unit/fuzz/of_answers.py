"""Targets: nft's listings, dnsmasq's files, and the requests of xennetd's own peers."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
from contextlib import nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from asyncvarlink import VarlinkInterfaceRegistry

from tests.golden.examples import EXAMPLES, policy_of
from tests.unit.control.bed import FakeDaemon
from tests.unit.fuzz.mutation import LARGEST, by_records, jsonwise
from tests.unit.fuzz.target import Broken, Target, recorded
from xennetd.daemon.control import peers, server
from xennetd.daemon.control.interface import INTERFACE
from xennetd.daemon.control.turns import Shared, Turns
from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.observability.journal import Journal
from xennetd.dnsmasq import instance_files, process, services
from xennetd.model.errors import HostError
from xennetd.model.objects import DhcpService
from xennetd.nft import library
from xennetd.nft.library import SETS, UnreadableTable
from xennetd.nft.table import NftTable
from xennetd.policy.network_needs import ruleset
from xennetd.render import dnsmasq_files


class _Prints:
    """Stands in for libnftables: it prints what it is told to."""

    def __init__(self) -> None:
        self.output = ""

    def set_json_output(self, value: bool) -> None:
        pass

    def cmd(self, text: str) -> tuple[int, str, str]:
        return 0, self.output, ""


_PRINTS = _Prints()
_NFT_WORDS: tuple[Any, ...] = (
    None, True, "", [], {}, "xennetd", "type", "map", "elem", "val", "concat", "name", "chain", "rule", "set",
    "comment", "prio", "policy", "hook", "mark", "mark . mark", ["mark", "mark"], "lo", "eth0", "10.0.0.1", "fd77::1",
    ":", "inet", {"concat": [1, 2]}, {"elem": {"val": 5}}, {"prefix": {}}, *SETS, 1e308,
)  # fmt: skip
_DEEP = b'{"nftables": ' + b"[" * 5000 + b"]" * 5000 + b"}"


def run_listing(data: bytes) -> None:
    """Read what nft prints; a table with it must be of use to the adapter."""
    nft = library.Nft()
    nft._context = _PRINTS
    _PRINTS.output = data.decode("utf-8", "surrogateescape")
    listing = nft.read()
    table = NftTable(lambda: None)
    table._now, table._known = listing, True
    for owned in table.list_owned():
        owned.describe()
    for (index, number), value in table.saved().items():
        int(index), int(number), f"{value:d}"
    wanted = ruleset(policy_of(EXAMPLES[1].text))
    table.present(wanted)
    list(library.changes(wanted, listing))
    library.Listing() == listing  # noqa: B015 # the comparison that tells a change


_LEASES = (
    b"1795947728 00:16:3e:00:03:00 10.77.0.142 * 01:00:16:3e:00:03:00",
    b"1795947728 7012352 fd77::6b8e * 00:01:00:01",
    b"duid 00:01",
    b"interface=xn-lab",
    b"# The index of its link: 1",
    b"pid-file=/var/lib/xennetd/xn-fuzz/0123456789abcdef.pid",
    b"10.78.0.209 a.b a",
    b"# ::1",
)


def run_dnsmasq(data: bytes) -> None:
    """Read a file as a lease file, as a file of names, and as a configuration."""
    text = data.decode("utf-8", "surrogateescape")
    leases = dnsmasq_files.leases(text)
    for address, lease in leases.items():
        if lease.address != address or not (lease.mac is None or re.fullmatch("[0-9a-f:]{17}", lease.mac)):
            raise Broken(f"{lease}")
    left = dnsmasq_files.without(text, leases)
    left.encode("utf-8", "surrogateescape")
    if dnsmasq_files.leases(left):
        raise Broken(f"{dnsmasq_files.leases(left)} is still there")
    host = dnsmasq_files.host_of("xn-lab", "00:16:3e:00:03:00", text)
    if host is not None:
        dnsmasq_files.host_file(host).encode()
        again = dnsmasq_files.host_of(host.instance, host.mac, dnsmasq_files.names_file(host))
        if host.name is not None and again is not None and again.addresses != host.addresses:
            raise Broken(f"{host} is written as {again}")
    with suppress(ValueError):
        dnsmasq_files.served_link(text)
    _compare(data.replace(b"xn-lab", b"lo"))


_SERVICE = DhcpService("xn-fuzz", "interface=lo\n", link="lo")


@cache
def _kept() -> tuple[int, services.DhcpServices]:
    """A file for a configuration, in memory, and the adapter that keeps this service running."""
    adapter = services.DhcpServices(run_by=process.Daemons())
    adapter._keeper(_SERVICE.instance)
    return os.memfd_create("dnsmasq.conf"), adapter


def _compare(data: bytes) -> None:
    """Compare a configuration file with what it should be, of a link that exists."""
    file, adapter = _kept()
    os.ftruncate(file, 0)
    os.pwrite(file, data, 0)
    path = Path(f"/proc/self/fd/{file}")
    with mock.patch.object(instance_files, "configuration_of", return_value=path):
        present = adapter.present(_SERVICE)
    if present is not None and present.configuration.encode("utf-8", "surrogateescape") not in data:
        raise Broken(f"{present} is not in the file")


_METHODS = ("Status", "List", "Show", "Debug", "Monitor", "Reload", "Check", "Retry", "Pin", "Unpin", "Nothing")
_PARAMETERS: tuple[Any, ...] = (None, {}, {"vif": "vif7.0"}, {"vif": "db/1"}, {"vif": "db"}, {"vif": 7}, {"recent": 3})
_FLAGS: tuple[dict[str, bool], ...] = (
    {},
    {"more": True},
    {"oneway": True},
    {"upgrade": True},
    {"more": True, "oneway": True},
)
_CONTROL_WORDS: tuple[Any, ...] = (
    None, True, False, 0, -1, 1 << 64, 1e308, "", "vif7.0", "web-1/0", "method", "more", "parameters", "oneway",
    "upgrade", "vif", "recent", [], {}, [[]], {"vif": []}, *_METHODS, f"{INTERFACE}.List",
    "org.varlink.service.GetInfo", "org.varlink.service.GetInterfaceDescription",
)  # fmt: skip
_DEEP_REQUEST = b'{"method": "org.xennetd.Control.Show", "parameters": ' + b'{"vif":' * 2000 + b"1" + b"}" * 2001


def control_seeds() -> list[bytes]:
    """Every method with every kind of parameters and flags."""
    calls = [{"method": f"{INTERFACE}.{method}", **({} if parameters is None else {"parameters": parameters}), **flags}
             for method, parameters, flags in itertools.product(_METHODS, _PARAMETERS, _FLAGS)]  # fmt: skip
    service = "org.varlink.service"
    calls += [
        {"method": f"{service}.GetInfo"},
        {"method": f"{service}.GetInterfaceDescription", "parameters": {"interface": INTERFACE}},
        {"method": f"{service}.GetInterfaceDescription", "parameters": {"interface": "no.such"}},
        {"method": "Status"},
        {"method": ""},
        {"parameters": {}},
    ]
    return [*(json.dumps(call).encode() for call in calls), _DEEP_REQUEST]


class _Control:
    """The control service without its socket, for root and for another user, in a loop of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.daemon = FakeDaemon()
        audit = Audit(Journal("/nonexistent"))
        service = server.ControlServer.__new__(server.ControlServer)
        service._daemon, service._audit, service._version, service._registries = self.daemon, audit, "1.2", {}
        service._turns = Turns()
        service._check = {root: Shared(self.daemon.check, rest=0) for root in (True, False)}
        self.registries: dict[int, VarlinkInterfaceRegistry] = {uid: service._registry(uid) for uid in (0, 1000)}

    async def converse(self, data: bytes) -> None:
        """Read all requests in `data` as those of a peer, and make the replies to each."""
        reader = peers._Reader(limit=peers.MAX_REQUEST, loop=self.loop)
        reader.hung_up = lambda: None
        reader.feed_data(data + b"\0")
        reader.feed_eof()
        uid = 0 if len(data) % 2 else 1000
        peer = peers.Peer(uid, reader, None)  # type: ignore[arg-type] # nothing is sent
        while (message := await peer.message()) is not None:
            if server._call(message).method == f"{INTERFACE}.Monitor":
                continue  # It has no end.
            sent = b"".join([piece async for piece, _ in server._answer(self.registries[uid], message, nullcontext)])
            if b"met a bug" in sent:
                raise Broken(sent.decode())
            for reply in sent.split(b"\0")[:-1]:
                json.loads(reply)
            if sent and not sent.endswith(b"\0"):
                raise Broken(f"a reply without its end: {sent!r}")


@cache
def _control() -> _Control:
    return _Control()


def run_control(data: bytes) -> None:
    """Have the daemon answer whatever a peer sends."""
    control = _control()
    control.daemon.asked.clear()
    control.loop.run_until_complete(control.converse(data))


ANSWERS = (
    Target("nft-listing", run_listing, (UnreadableTable, HostError), lambda: [*recorded("nft_listing"), _DEEP],
           jsonwise(_NFT_WORDS), 0.02, largest=LARGEST),
    Target("dnsmasq-files", run_dnsmasq, (), lambda: recorded("dnsmasq_files"), by_records(b"\n", _LEASES),
           0.12, b"\n"),
    Target("control-messages", run_control, (peers.PeerError,), control_seeds,
           jsonwise(_CONTROL_WORDS), 0.10, largest=1 << 14),
)  # fmt: skip
