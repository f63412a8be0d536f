"""A host with a network of every mode, and a guest in each: what a life cycle must hold for, whatever the mode."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from tests.bed.daemon import STAND_IN
from tests.bed.guest import Bed, Guest
from tests.bed.netns import NetNs
from tests.bed.state import changes, host_state
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeGuest
from tests.kernel.wait import eventually

LAN, EDGE, LAB, STORE = (
    '[network.lan]\nmode = "bridge"\nbridge = "xenbr0"\n',
    '[network.edge]\nmode = "route"\nproxy = true\n',
    '[network.lab]\nmode = "nat"\nsubnets = ["10.77.0.0/24", "fd77::/64"]\ndhcp = true\nra = "stateful"\n'
    'forward = [{ proto = "tcp", port = 8080, to = "lab-1:80" }]\n',
    '[network.store]\nmode = "isolated"\nsubnets = ["10.78.0.0/24"]\ndhcp = true\n',
)


def policy(match: str, outcome: str) -> str:
    """A policy for domains of a name; `outcome` is like `network = "lab"`."""
    return f'[[policy]]\nmatch = {{ vm = "{match}" }}\n{outcome}\n'


def networks(*texts: str) -> str:
    """A configuration with these networks, each for the domains that are called after it."""
    names = [name for text in texts for name in re.findall(r"^\[network\.(\w+)\]", text, re.MULTILINE)]
    return STAND_IN + "".join([*texts, *(policy(f"{name}-*", f'network = "{name}"') for name in names)])


EVERY_MODE = networks(LAN, EDGE, LAB, STORE)

SPECS: Mapping[str, VifSpec] = {
    "lan-1": VifSpec(),
    "edge-1": VifSpec(ip="192.0.2.17 203.0.113.11 2001:db8::17"),
    "lab-1": VifSpec(),
    "store-1": VifSpec(),
    "alone-1": VifSpec(script="vif-xennetd-route", ip="192.0.2.18 203.0.113.12 2001:db8:5::12"),
    "alone-2": VifSpec(script="vif-xennetd-nat"),
}
"""A guest for each network, and those that are routed or translated without one."""


def populate(bed: Bed, guest: MakeGuest, specs: Mapping[str, VifSpec] = SPECS) -> dict[str, Guest]:
    """Guests at state 2 by name, and the bridge of the first."""
    if "xenbr0" not in bed.host.links():
        bed.host.bridge("xenbr0")
    return {name: guest(name, spec) for name, spec in specs.items()}


def served(*networks: str) -> list[int]:
    """Wait until each network has its dnsmasq, and return their process ids."""
    files = [Path("/var/lib/xennetd", f"xn-{network}") for network in networks]
    return [eventually(partial(pid_in, file)) for file in files]


def pid_in(directory: Path) -> int | None:
    try:
        found = [int(text) for file in directory.glob("*.pid") if (text := file.read_text().strip())]
    except FileNotFoundError:
        return None
    return found[0] if found else None


class Pings:
    """A ping every 5 ms from a namespace, for two seconds."""

    INTERVAL = 0.005

    def __init__(self, namespace: NetNs, address: str, count: int = 400) -> None:
        command = ("ping", "-q", "-c", str(count), "-i", str(self.INTERVAL), "-W", "1", address)
        with namespace:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def lost(self) -> int:
        """How many were not answered, once all have been sent."""
        output, _ = self._process.communicate()
        found = re.search(r"(\d+) packets transmitted, (\d+) received", output)
        assert found is not None, output
        return int(found[1]) - int(found[2])


def way(host: NetNs, address: str) -> str:
    """The link that the host sends to an address by."""
    return str(json.loads(host.run("ip", "-json", "route", "get", address).stdout)[0]["dev"])


def proxied(host: NetNs) -> set[str]:
    """The addresses that the host answers for on any link."""
    return {entry["dst"] for entry in json.loads(host.run("ip", "-json", "neighbour", "show", "proxy").stdout)}


def neighbours(host: NetNs, link: str) -> dict[str, str]:
    """The permanent neighbours on a link: whose MAC each address is."""
    found = json.loads(host.run("ip", "-json", "neighbour", "show", "dev", link, "nud", "permanent").stdout)
    return {entry["dst"]: entry["lladdr"] for entry in found}


def elements(host: NetNs, name: str) -> str:
    """What is in a set or map of our nftables table, as nft says it; empty where there is no such table."""
    listed = host.run("nft", "list", "set" if name == "masquerade4" else "map", "inet", "xennetd", name, check=False)
    found = re.search(r"elements = \{(.*?)\}", listed.stdout, re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def setting(host: NetNs, path: str) -> int:
    """A value below /proc/sys/net, like ipv4/conf/eth0/forwarding."""
    with host:
        return int(Path("/proc/sys/net", path).read_text())


def write_setting(host: NetNs, path: str, value: int) -> None:
    with host:
        Path("/proc/sys/net", path).write_text(str(value))


def told(network: str) -> dict[str, str]:
    """What a network's dnsmasq is told of guests, by MAC."""
    files = sorted(Path("/var/lib/xennetd", f"xn-{network}", "hosts").glob("[0-9a-f]*"))
    return {file.name: file.read_text().strip() for file in files}


def same(before: list[str], now: Callable[[], list[str]], timeout: float = 3.0) -> bool:
    """Whether all is as before: soon, as some things end in their own time. AssertionError says what is not."""
    deadline = time.monotonic() + timeout
    while different := changes(before, now()):
        assert time.monotonic() < deadline, "\n".join(["it is not as before:", *different])
        time.sleep(0.1)
    return True


def held(bed: Bed, *, without: str = "") -> list[str]:
    """All that the kernel, xenstore and our files hold, a line each, sorted, without what changes by itself."""
    found = host_state(bed.host, without=without)
    found += [f"link {name} {_plain(link)}" for name, link in sorted(bed.host.links().items())]
    found += [f"node {node}" for node in bed.xenstored.dump().nodes]
    return sorted(line for line in found if not without or not re.search(without, line))


def _plain(link: dict[str, object]) -> str:
    text = json.dumps(link, sort_keys=True)
    return re.sub(r'"(?:\w+_timer|fdb_n_learned|operstate)": [^,}]+', "", text)
