"""The files of conf/examples: the host of each, and a guest for each of its policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_interface
from pathlib import Path

from tests.golden.host import SimulatedHost
from xennetd.model.configuration import Policy
from xennetd.model.vif import Vif, VifId, XenbusState
from xennetd.policy.load import load

REPOSITORY = Path(__file__).parents[2]
LIBXL_BRIDGE = "xenbr0"
DIRECTORY = REPOSITORY / "conf/examples"


@dataclass(frozen=True, slots=True)
class Guest:
    """One interface of a guest: what its vif= line says, and to what policy and network the example leads it.

    libxl takes a `bridge` that is not given for xenbr0; an empty one is none.
    """

    vm: str
    policy: str | None
    network: str | None
    devid: int = 0
    bridge: str = LIBXL_BRIDGE
    ips: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The interface, as the golden texts name it."""
        return f"{self.vm}/{self.devid}" if self.devid else self.vm

    @property
    def line(self) -> str:
        """What the vif= line says."""
        words = [f"bridge={self.bridge}"] if self.bridge != LIBXL_BRIDGE else []
        return ",".join([*words, f"ip={' '.join(self.ips)}"] if self.ips else words)


@dataclass(frozen=True, slots=True)
class Example:
    """One file. `bridges` are the administrator's, which it names, with their MTUs."""

    name: str
    guests: tuple[Guest, ...]
    bridges: tuple[tuple[str, int], ...] = ()

    @property
    def text(self) -> str:
        """What the file says."""
        return (DIRECTORY / f"{self.name}.toml").read_text()

    def host(self, *, forces_ipv6: bool = False) -> SimulatedHost:
        """Return the host, without guests and without anything of xennetd's."""
        return SimulatedHost(self.bridges, forces_ipv6=forces_ipv6)

    @cache  # noqa: B019 # the cache keeps the examples alive: they are six constants of this module
    def vifs(self) -> Mapping[Guest, Vif]:
        """Return the guests' interfaces when they have just come. Those of one domain share its number and UUID."""
        domains = {vm: domid for domid, vm in enumerate(dict.fromkeys(guest.vm for guest in self.guests), start=1)}
        return {guest: _vif(guest, domains[guest.vm]) for guest in self.guests}


def _vif(guest: Guest, domid: int) -> Vif:
    return Vif(
        VifId(domid, guest.devid),
        XenbusState.INIT_WAIT,
        online=True,
        script="/etc/xen/scripts/vif-xennetd",
        mac=f"00:16:3e:00:{domid:02x}:{guest.devid:02x}",
        bridge=guest.bridge or None,
        ips=tuple(map(ip_interface, guest.ips)),
        vm=guest.vm,
        uuid=f"00000000-0000-4000-8000-{domid:012d}",
    )


@cache
def policy_of(text: str) -> Policy:
    """Return the policy of a configuration that is valid."""
    policy = load([("example.toml", text.encode())])
    assert isinstance(policy, Policy), [text, *(problem.describe() for problem in policy)]
    return policy


EXAMPLES = (
    Example(
        "bridge",
        (
            Guest("web-quarantine", "quarantine", None),
            Guest("srv-1", "servers", "servers"),
            Guest("licence", "licence server", "office"),
            Guest("desk", "all others", "office"),
        ),
        bridges=(("xenbr0", 1500), ("xenbr1", 9000)),
    ),
    Example(
        "nat",
        (Guest("jump", "jump host", "lab"), Guest("web-1", "lab", "lab"), Guest("db-1", "lab", "lab", bridge="")),
    ),
    Example(
        "dual-stack",
        (Guest("web-1", "web server", "lab"), Guest("db-1", "lab", "lab")),
    ),
    Example(
        "isolated",
        (
            Guest("db-1", None, None),
            Guest("db-1", "storage", "storage", devid=1),
            Guest("db-1", "cluster heartbeat", "wire", devid=2),
        ),
        bridges=(("xenbr0", 1500),),
    ),
    Example(
        "route-link-local",
        (Guest("ns-1", "name server 1", "edge"), Guest("ns-2", "name server 2", "edge")),
    ),
    Example(
        "route",
        (
            Guest("mail", "mail server", "public"),
            Guest("pub-1", "public", "public", ips=("192.0.2.17",)),
        ),
    ),
)
