"""Targets: xenstored's stream, the nodes of a vif, and the paths of watch events."""

from __future__ import annotations

import json
from functools import cache

from tests.golden.examples import EXAMPLES, policy_of
from tests.golden.host import SimulatedHost
from tests.kernel.every_mode import EVERY_MODE
from tests.unit.fuzz.mutation import by_records
from tests.unit.fuzz.nodes import SEPARATOR, pack, unpack
from tests.unit.fuzz.target import Broken, Target, recorded
from tests.unit.hosts import nobody
from xennetd.model.attachment import Attachment
from xennetd.model.configuration import Policy
from xennetd.model.dump import to_json
from xennetd.model.vif import Vif, VifId
from xennetd.policy.facts import Facts
from xennetd.policy.resolve import owned, resolve
from xennetd.xenstore import codec, parse
from xennetd.xenstore.codec import Decoder, ProtocolError
from xennetd.xenstore.hints import Hints

STREAM_WORDS = tuple(
    codec.encode(op, number, 0, payload)
    for number, (op, payload) in enumerate(
        [
            (codec.WATCH_EVENT, b"backend/vif/7/0/state\0backend/vif\0"),
            (codec.WATCH_EVENT, b"one string only\0"),
            (codec.ERROR, b"E2BIG\0"),
            (codec.DIRECTORY_PART, b"12\0name\0\0"),
            (codec.TRANSACTION_START, b"4294967295\0"),
            (codec.READ, b"x" * codec.PAYLOAD_MAX),
        ]
    )
)


def run_stream(data: bytes) -> None:
    """Decode a stream in two pieces, and every payload as each kind of message."""
    decoder = Decoder()
    half = len(data) // 2
    packets = [*decoder.feed(data[:half]), *decoder.feed(data[half:])]
    whole = Decoder().feed(data)
    if packets != whole:
        raise Broken("the messages depend on how the stream is cut")
    for packet in packets:
        codec.encode(*packet)
        if not codec.parse_errno(packet.payload) > 0:
            raise Broken("no errno")
        codec.parse_names(packet.payload)
        for read in (codec.parse_event, codec.parse_directory_part, codec.parse_transaction_id):
            try:
                read(packet.payload)
            except ProtocolError as error:
                _safe(error.sentence)


VIF = VifId(7, 0)
SHORT_WAY = ("state", "hotplug-status", "hotplug-error", "xennetd-tap", "xennetd-pin", "mac")
NAME, VM, MTU = "/name", "/vm", "/mtu"
"""The nodes of the domain and of the frontend, beside those of the backend directory."""

_WORDS: tuple[str, ...] = (
    "mac=00:16:3e:00:00:01", "ip=10.77.0.9 fd77::9", "ip=192.0.2.17", "bridge=xenbr0", "vifname=web0", "online=1",
    "state=4", "state=9", "type=vif_ioemu", "mtu=1400", "vlan=20", "script=/etc/xen/scripts/vif-xennetd-route",
    "script=vif-xennetd-nat", "script=vif-nat", "script=vif-openvswitch", "gatewaydev=eth0", "/name=lab-1",
    "/name=web-1--incoming", "/vm=/vm/00000000-0000-4000-8000-000000000001", "/mtu=9000", "hotplug-status=x",
)  # fmt: skip
NODE_WORDS = tuple(word.encode() for word in _WORDS)


@cache
def hosts() -> tuple[tuple[Policy, SimulatedHost], ...]:
    """The policies that vifs are resolved by, each with its host."""
    examples = [(policy_of(example.text), example.host()) for example in EXAMPLES]
    return (*examples, (policy_of(EVERY_MODE), SimulatedHost([("xenbr0", 1500)])), (Policy(), SimulatedHost()))


def nodes_seeds() -> list[bytes]:
    """The nodes of real vifs, as guests of different names."""
    names = ("lan-1", "edge-1", "lab-1", "store-1", "web-1", "db-1", "ns-1", "pub-1", "mail", "jump")
    domain = {VM: "/vm/0f8e7c1a-36f5-4a5f-9d5c-000000000007", MTU: "1500"}
    return [
        SEPARATOR.join([data, pack({NAME: names[(number + shift) % len(names)], **domain})])
        for number, data in enumerate(recorded("vif_nodes"))
        for shift in (0, 3, 5)
    ]


def run_nodes(data: bytes) -> None:
    """Parse the nodes, and take the vif through the policies: whoever reads it then must be able to."""
    nodes: dict[str, bytes | None] = dict(unpack(data))
    vif = parse.parse_vif(VIF, nodes, nodes.get(NAME), nodes.get(VM), nodes.get(MTU))
    for text in (
        vif.script,
        vif.frontend,
        vif.mac,
        vif.bridge,
        vif.vlan,
        vif.vifname,
        vif.gatewaydev,
        vif.vm,
        vif.uuid,
    ):
        _safe(text or "")
    for fault in vif.faults:
        _safe(fault.sentence)
    for text in (vif.hotplug_status, vif.hotplug_error, vif.tap_status):
        _safe(text or "")
    _check_update(vif, nodes)
    number = sum(data) % len(hosts())
    policy, host = hosts()[number]
    check_resolution(policy, host, vif)


def check_resolution(policy: Policy, host: SimulatedHost, vif: Vif) -> None:
    """The outcome is an Attachment or an error with sentences that are safe, and it can be shown."""
    owned(policy, vif)
    facts = Facts(host.links, nobody())
    resolution = resolve(policy, vif, facts, facts)
    outcome = resolution.outcome
    if isinstance(outcome, Attachment):
        for needed in outcome.needs:
            needed.describe()
        for warning in outcome.warnings:
            _safe(warning)
        for link in host.links.links:
            resolution.keeps(link, "xenbr0")
    else:
        _safe(outcome.sentence)
        if not outcome.detail.isprintable():
            raise Broken(f"not printable: {outcome.detail!a}")
    json.dumps(to_json(outcome)).encode()
    if not facts.hold():
        raise Broken("the host is another one after the decision")


def _check_update(vif: Vif, nodes: dict[str, bytes | None]) -> None:
    """The short way through `update_vif` gives what `parse_vif` gives."""
    changed = SHORT_WAY[len(nodes) % len(SHORT_WAY)]
    before = dict(nodes)
    before.pop(changed, None)
    old = parse.parse_vif(VIF, before, nodes.get(NAME), nodes.get(VM), nodes.get(MTU))
    new = parse.update_vif(old, nodes, [changed])
    if new is not None and new != vif:
        raise Broken(f"update_vif after a change of {changed} gives another vif than parse_vif")


def _safe(text: str) -> None:
    if not (text.isascii() and text.isprintable()):
        raise Broken(f"not printable ASCII: {text!a}")


_PATHS: tuple[str, ...] = (
    "backend/vif/7/0/state", "backend/vif/7/0", "backend/vif/7", "backend/vif", "backend", "@releaseDomain",
    "backend/vif/32751/65535/mac", "backend/vif/7/0/hotplug-status", "/local/domain/7/name", "vif7.0", "vif7.0-emu",
    "backend/vif/07/0/state", "backend/vif/7/00/state", "backend/vif//0/state", "backend/vif/7/0/", "name",
)  # fmt: skip
PATHS = tuple(path.encode() for path in _PATHS)


def run_path(data: bytes) -> None:
    """Take a watch event's path as a hint, and a name as that of a vif."""
    path = data.decode("latin-1")
    for known in ((), (VIF,)):
        hints = Hints()
        hints.add(path, known)
        hints.add_name(path)
        for vif, nodes in hints.vifs.items():
            if vif.domid >= 0x7FF0 or not nodes <= frozenset(parse.NODES):
                raise Broken(f"hint at {vif} {nodes}")
            codec.path_payload(vif.backend)
        for domid in hints.domains | hints.renamed:
            codec.path_payload(f"backend/vif/{domid}")
    for text in (path, data.decode("utf-8", "replace")):
        named = VifId.parse(text)
        if named is not None and str(named) != text:
            raise Broken(f"{text!a} is no name of {named}")


XENSTORE = (
    Target("xenstore-stream", run_stream, (ProtocolError,), lambda: recorded("xenstore_stream"),
           by_records(b"\x00\x00\x00\x00", STREAM_WORDS), 0.20, largest=3 * codec.PAYLOAD_MAX),
    Target("vif-nodes", run_nodes, (), nodes_seeds, by_records(SEPARATOR, NODE_WORDS), 0.10, SEPARATOR),
    Target("xenstore-paths", run_path, (), lambda: PATHS, by_records(b"/", PATHS), 0.17, b"/"),
)  # fmt: skip
