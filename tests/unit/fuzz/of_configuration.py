"""Target: TOML, from the bytes of a file to the policy, and on to what a policy is used for."""

from __future__ import annotations

import json
import re
from functools import cache
from ipaddress import ip_interface

from tests.golden.examples import DIRECTORY, EXAMPLES
from tests.golden.host import SimulatedHost
from tests.kernel.every_mode import EVERY_MODE
from tests.unit.fuzz.mutation import by_records
from tests.unit.fuzz.of_xenstore import check_resolution
from tests.unit.fuzz.target import Broken, Target
from xennetd.config.document import Document, parse
from xennetd.config.lines import KeyPath
from xennetd.config.schema import DAEMON, FORWARD, MATCH, NETWORK_KEYS, RULE
from xennetd.config.topology_schema import SECTIONS as TOPOLOGY
from xennetd.model.configuration import Policy
from xennetd.model.dump import to_json
from xennetd.model.vif import Vif, VifId, XenbusState
from xennetd.plan.difference import by_key, in_order
from xennetd.plan.topology_plan import topology_plan
from xennetd.policy.check import check
from xennetd.policy.host_notes import HostNotes
from xennetd.policy.load import load
from xennetd.policy.network_needs import named_links, needs, obstacle
from xennetd.policy.topology_objects import TopologyFacts, topology_objects
from xennetd.render.dnsmasq_files import services

_LINES: tuple[str, ...] = (
    "[daemon]", "[network.lab]", "[network.lan]", "[[policy]]", "[[network.lab.forward]]", "match.vm = 'a*'",
    'mode = "nat"', 'mode = "bridge"', 'mode = "route"', 'mode = "isolated"', 'bridge = "xenbr0"', "a.b.c = 1",
    'subnets = ["10.77.0.0/24", "fd77::/64"]', 'network = "lab"', 'ip = ["10.77.0.5"]', "'' = 0", '"a\\u0085b" = 1',
    'deny = "no"', "match = { }", "x = [[[[[{}]]]]]", "x = '''\n'''", 'x = """\\\n"""', "d = 1979-05-27T07:32:00Z",
    "t = 07:32:00", "i = 0x" + "f" * 5000, "f = 1e400", "n = -nan", "# \u2028", "[a.b]", "[[a.b]]", "[a]\nb = 1",
    "[bridge.xenbr0]", "[bond.bond0]", '[vlan."bond0.5"]', "[vlan.a]\nparent = 'b'", "[vlan.b]\nparent = 'a'",
    "[dummy.d]", "[nic.eth0]", 'ports = ["eth0"]', 'ports = ["bond0.5", "d"]', "addresses = []",
    "x = " + "[" * 400 + "]" * 400, "x = " + "{a=" * 300 + "1" + "}" * 300, ".".join("a" * 500) + " = 1",
)  # fmt: skip
_VALUES: tuple[str, ...] = (
    '"10.77.0.0/24"', '"fd77::/64"', '"0.0.0.0/0"', '"::/0"', '"10.0.0.0/30"', '"224.0.0.0/4"', '"2001:db8::/48"',
    '"[fd77::5]:80"', '"web-1:80"', '"[.*"', '"[!]"', '"[z-a]*"', '"*"', '"00:16:3e:*"', '"stable"', '"link-local"',
    "true", "false", "0", "-1", "65536", "9223372036854775808", "1.5", "[]", "{}", '""', '"\\u0000"', '"\\ud7ff"',
    '"\\U0010ffff"', '"vif7.0"', '"lo"', '"all"', '"eth0"', '"xn-lab"', '"stateful"', '"nat66"', '"observe"',
    '"802.3ad"', '"bond0"', '"eth0.5"', '["eth0", "bond0"]', '["192.0.2.1/24"]', '"02:00:00:00:00:01"', "4094", "9000",
)  # fmt: skip
TOPOLOGY_KEYS = {*TOPOLOGY, *(key for keys in TOPOLOGY.values() for key in keys)}
_KEYS = tuple(
    {*DAEMON, *NETWORK_KEYS, *FORWARD, *MATCH, *RULE, *TOPOLOGY_KEYS, "mode", "daemon", "network", "policy", "match"}
)
WORDS = tuple(word.encode() for word in (*_LINES, *_VALUES, *sorted(_KEYS)))


def seeds() -> list[bytes]:
    """The examples, the documented file with its comments taken off, and a network of each mode."""
    documented = (DIRECTORY.parent / "xennetd.toml").read_text()
    live = re.sub(r"^# ?(?=[\[a-z])", "", documented, flags=re.MULTILINE)
    texts = [documented, live, EVERY_MODE, *(example.text for example in EXAMPLES)]
    bare = [re.sub(r"\s*#.*$", "", text, flags=re.MULTILINE) for text in texts]
    return [text.encode() for text in (*texts, *bare)]


@cache
def _vifs() -> tuple[Vif, ...]:
    """Vifs that the policies of the examples lead somewhere."""
    names = ("lab-1", "web-1", "db-1", "pub-1", None)
    ips = ((), ("10.77.0.9",), ("192.0.2.17",), ("fd77::9", "10.78.0.4"), ("198.51.100.7",))
    return tuple(
        Vif(
            VifId(number, number % 3),
            XenbusState.INIT_WAIT,
            online=True,
            script="/etc/xen/scripts/vif-xennetd",
            mac=f"00:16:3e:00:00:{number:02x}",
            bridge="xenbr0",
            ips=tuple(map(ip_interface, addresses)),
            vm=name,
            uuid=f"00000000-0000-4000-8000-{number:012d}",
        )
        for number, (name, addresses) in enumerate(zip(names, ips, strict=True), 1)
    )


@cache
def _host() -> SimulatedHost:
    return SimulatedHost([("xenbr0", 1500), ("xenbr1", 9000)])


def run(data: bytes) -> None:
    """Load, check and use the configuration."""
    document = parse("f", data)
    if isinstance(document, Document):
        _check_lines(document)
    loaded = load([("f", data)])
    if not isinstance(loaded, Policy):
        if not loaded:
            raise Broken("neither a policy nor a problem")
        for problem in loaded:
            text = problem.describe()
            if not text.isprintable() or len(text) > 4000:
                raise Broken(f"a problem of {len(text)} characters, or not printable: {text[:200]!a}")
            if problem.line is not None and not 1 <= problem.line <= data.count(b"\n") + 1:
                raise Broken(f"line {problem.line} of {data.count(10)}")
        return
    _use(loaded)


def _check_lines(document: Document) -> None:
    """Every key of the data has a line in the text."""
    lines, size = document.lines, document.text.count("\n") + 1
    waiting: list[tuple[KeyPath, object]] = [((), document.data)]
    while waiting:
        path, value = waiting.pop()
        if path and not 1 <= lines.get(path, 0) <= size:
            raise Broken(f"{path} is on line {lines.get(path)} of {size}")
        if isinstance(value, dict):
            waiting += [((*path, key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [((*path, number), inner) for number, inner in enumerate(value)]


def _use(policy: Policy) -> None:
    host = _host()
    links = frozenset(link.name for link in host.links.links)
    listening = frozenset({("tcp", 8080), ("tcp", 22)})
    for note in check(policy, HostNotes(links=links, bridges=frozenset({"xenbr0"}), listening=listening)):
        if not note.sentence.isprintable():
            raise Broken(f"a note that is not printable: {note.sentence!a}")
    json.dumps(to_json(policy)).encode()
    named_links(policy)
    wanted = by_key(topology_objects(policy.topology, TopologyFacts(machine="one")))
    for item in in_order(wanted):
        if not item.describe().isprintable():
            raise Broken(f"an object that is not printable: {item.describe()!a}")
    topology_plan(wanted, {}, {})
    for network in policy.networks.values():
        obstacle(network, host.links)
        for needed in needs(policy, network, host.links):
            needed.describe()
        if network.dhcp:
            for service in services(network):
                service.configuration.encode()
    for vif in _vifs():
        check_resolution(policy, host, vif)


CONFIGURATION = (Target("toml", run, (), seeds, by_records(b"\n", WORDS), 0.03, b"\n", largest=16384),)
