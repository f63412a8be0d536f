"""The stock `vif-bridge` and xennetd on the same inputs: what the kernel and xenstore hold afterwards.

Each case is played twice, each time on a host and a xenstored of its own, by the same toolstack: once with Xen's own
script at /etc/xen/scripts/vif-bridge, once with ours at that place and xennetd behind it. Everything that `ip -details`
shows and all of xenstore, permissions included, must be the same, but for the differences listed here: all of these
must be there too, so a difference that goes away has to leave the list.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from tests.bed import hotplug, xen
from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.guest import Bed
from tests.bed.netns import Host
from tests.bed.toolstack import SCRIPTS, Domain, Vif, VifSpec
from tests.bed.xenstored import Xenstored
from tests.kernel.conftest import make_or_skip
from tests.kernel.wait import eventually
from xennetd.model.value import replace

OURS = xen.REPOSITORY / "conf" / "vif-xennetd"
UPLINK_MAC = "02:00:00:00:00:05"
UUID = "a5b12b7c-0000-4000-8000-000000000001"
LINK_LOCAL = "fe80::fcff:ffff:feff:ffff/64"
ABSENT = "(absent)"
ANY = object()
BACKEND = "/local/domain/0/backend/vif/1/0"

State = dict[str, Any]
Prepare = Callable[[Host], object]


@dataclass(frozen=True)
class Difference:
    """Where ours differs from stock on purpose. `where` is a pattern of keys; ANY stands for any value."""

    where: str
    stock: Any
    ours: Any
    why: str

    def holds(self, stock: Any, ours: Any) -> bool:
        return self.stock in (ANY, stock) and self.ours in (ANY, ours)


@dataclass(frozen=True)
class Case:
    """What is played. `nodes` are changed in each backend directory before netback sees it, None removes one."""

    name: str
    prepare: Prepare
    vifs: tuple[VifSpec, ...]
    differences: tuple[Difference, ...] = ()
    nodes: tuple[tuple[str, str | None], ...] = ()
    bridge_goes: bool = False


# The hosts


def lan(host: Host, bridge: str = "xenbr0", uplink: str = "eth0", mtu: int = 1500) -> None:
    """A bridge with one uplink: the same addresses each time, and none of IPv6's, which come when they come."""
    host.rtnl.add_bridge(bridge)
    beyond = host.guest("beyond")
    host.rtnl.add_veth(uplink, "eth0", beyond.fd, address=UPLINK_MAC)
    beyond.rtnl.set("eth0", mtu=mtu, up=True)
    for link in (bridge, uplink):
        host.run("ip", "link", "set", "dev", link, "addrgenmode", "none")
    host.rtnl.set(uplink, mtu=mtu, up=True)
    host.rtnl.set(uplink, master=bridge)
    host.rtnl.set(bridge, up=True)


def jumbo(host: Host) -> None:
    lan(host, mtu=9000)


def bridge_named_as_its_uplink_once_was(host: Host) -> None:
    lan(host, "eth0", "peth0")


def nothing(host: Host) -> None:
    pass


def no_bridge_but_a_link(host: Host) -> None:
    host.rtnl.add_veth("xenbr0", "eth0", host.guest("beyond").fd, address=UPLINK_MAC)


# The differences


def port(name: str) -> tuple[Difference, ...]:
    """What is different at every port, here called `name`."""
    why = "a guest's port is no interface of dom0's: dom0 can't be reached there by IPv6"
    return (
        Difference(f"*/link/{name}/inet6_addr_gen_mode", "eui64", "none", why),
        Difference(f"attached/address/{name}", (LINK_LOCAL,), (), why),
        Difference(f"again/address/{name}", (LINK_LOCAL,), (), why),
        Difference(f"a*/link/{name}/ifalias", ABSENT, ANY, "the bridge that the guest was given, for a later daemon"),
    )


def vifname(name: str) -> tuple[Difference, ...]:
    """What is different with a `vifname`."""
    again = "stock finds its own vifname taken and fails a working vif"
    path = "stock takes the vifname for vifDOMID.DEVID: a junk path"
    return (
        Difference("again/online vif1.0", 1, 0, again),
        Difference(f"again/xenstore{BACKEND}/hotplug-status", "error", "connected", again),
        Difference(f"*/xenstore{BACKEND}/hotplug-error*", ANY, ABSENT, again),
        Difference(f"*/xenstore/local/domain/{name}*", ANY, ABSENT, path),
    )


def bridge_mtu(stock: int, ours: int) -> tuple[Difference, ...]:
    """What is different where a guest's MTU is smaller than its bridge's."""
    why = "one guest's small MTU must not become the host's"
    return (
        Difference("attached/link/xenbr0/mtu", stock, ours, why),
        Difference("again/link/xenbr0/mtu", stock, ours, why),
    )


def next_guest_mtu(stock: int, ours: int) -> tuple[Difference, ...]:
    """What is different for the guest that comes after one with a small MTU."""
    why = "nor the next guest's"
    return (
        Difference("*/link/vif1.1/mtu", stock, ours, why),
        Difference("*/xenstore/local/domain/1/device/vif/1/mtu", str(stock), str(ours), why),
    )


def error(sentence: str, *, stock: object = ANY) -> tuple[Difference, ...]:
    """What is different where an attach fails."""
    return (Difference(f"*/xenstore{BACKEND}/hotplug-error", stock, sentence, "it says what to do"),)


OFFLINE = (
    Difference("detached/offline vif1.0", 1, 0, "a missing bridge keeps nobody from leaving"),
    Difference(f"detached/xenstore{BACKEND}/hotplug-status*", ANY, ABSENT, "nor is it written that netback deleted"),
)
TAP = (
    Difference(f"*/xenstore{BACKEND}/xennetd-tap*", ABSENT, ANY, "what our script waits for before QEMU's tap is used"),
)

CASES = (
    Case("plain", lan, (VifSpec(),), port("vif1.0")),
    Case("mtu of the bridge", jumbo, (VifSpec(),), port("vif1.0")),
    Case("mtu smaller", jumbo, (VifSpec(mtu=1400),), (*port("vif1.0"), *bridge_mtu(1400, 9000))),
    Case("mtu larger", lan, (VifSpec(mtu=9000),), port("vif1.0")),
    Case("two vifs", lan, (VifSpec(), VifSpec()), port("vif1.?")),
    Case(
        "two vifs, the first with a small mtu",
        jumbo,
        (VifSpec(mtu=1400), VifSpec()),
        (*port("vif1.?"), *bridge_mtu(1400, 9000), *next_guest_mtu(1400, 9000)),
    ),
    Case("vifname", lan, (VifSpec(vifname="web0"),), (*port("web0"), *vifname("web0"))),
    Case(
        "vifname and mtu of the bridge",
        jumbo,
        (VifSpec(vifname="web0"),),
        (
            *port("web0"),
            *vifname("web0"),
            Difference(
                "*/xenstore/local/domain/1/device/vif/0/mtu", "1500", "9000", "so the guest never learns its MTU"
            ),
        ),
    ),
    Case("tap", lan, (VifSpec(type="vif_ioemu"),), (*port("vif1.0"), *port("vif1.0-emu"), *TAP)),
    Case(
        "tap and vifname",
        lan,
        (VifSpec(type="vif_ioemu", vifname="web0"),),
        (*port("web0"), *port("web0-emu"), *vifname("web0"), *TAP),
    ),
    Case("no bridge node", lan, (VifSpec(),), port("vif1.0"), nodes=(("bridge", None),)),
    Case("empty bridge node", lan, (VifSpec(),), port("vif1.0"), nodes=(("bridge", ""),)),
    Case("xenbr0 is called eth0", bridge_named_as_its_uplink_once_was, (VifSpec(),), port("vif1.0")),
    Case("ip", lan, (VifSpec(ip="10.0.0.1 fd00::1/64"),), port("vif1.0")),
    Case(
        "missing bridge",
        nothing,
        (VifSpec(),),
        (
            *error('bridge "xenbr0" does not exist: create it, or correct bridge= in the domain\'s vif line'),
            *OFFLINE,
        ),
    ),
    Case(
        "no bridge node and no bridge",
        nothing,
        (VifSpec(),),
        (
            *error(
                "no bridge is named and the host has none: "
                "create one, or name one with bridge= in the domain's vif line"
            ),
            *OFFLINE,
        ),
        nodes=(("bridge", None),),
    ),
    Case(
        "the bridge is another link",
        no_bridge_but_a_link,
        (VifSpec(),),
        (
            *error(
                '"xenbr0" is not a bridge: make it a bridge, or correct bridge= in the domain\'s vif line', stock=ABSENT
            ),
            Difference(f"*/xenstore{BACKEND}/hotplug-error permissions", ABSENT, ANY, "stock says nothing at all"),
            Difference(f"*/xenstore{BACKEND}/hotplug-status", "", "error", "stock says nothing at all"),
        ),
    ),
    Case(
        "the bridge goes first",
        lan,
        (VifSpec(),),
        (
            *port("vif1.0"),
            *OFFLINE,
            Difference(f"detached/xenstore{BACKEND}/hotplug-error*", ANY, ABSENT, "leaving is no error"),
            Difference(
                "detached/link/vif1.0/flags", ANY, ("BROADCAST", "MULTICAST"), "a guest that leaves is shut out"
            ),
            Difference("detached/link/vif1.0/operstate", "UP", "DOWN", "a guest that leaves is shut out"),
            Difference("detached/address/vif1.0", (LINK_LOCAL,), (), "a guest that leaves is shut out"),
        ),
        bridge_goes=True,
    ),
)


# Playing them


class Side:
    """One host with one way to configure vifs."""

    def __init__(self, case: Case, directory: Path, *, ours: bool) -> None:
        self._case = case
        self._ours = ours
        self._host = make_or_skip(Host)
        self._xenstored = make_or_skip(Xenstored)
        self._bed = Bed(self._xenstored, self._host)
        self._daemon: Daemon | None = None
        self.state: State = {}
        case.prepare(self._host)
        if ours:
            shutil.copy(OURS, Path(SCRIPTS) / "vif-bridge")
            self._daemon = Daemon(self._xenstored, directory, STAND_IN + 'scripts = ["vif-bridge"]\n')
            self._daemon.start()

    def close(self) -> None:
        if self._daemon is not None:
            self._daemon.close()
        self._bed.close()
        self._xenstored.close()
        self._host.close()

    def play(self) -> State:
        bed, case = self._bed, self._case
        domain = bed.toolstack.create_domain("web", uuid_=UUID)
        vifs = [self._attach(domain, devid, spec) for devid, spec in enumerate(case.vifs)]
        self._snapshot("attached", vifs)
        for vif in vifs:
            self._run("again", vif, "online")
        self._snapshot("again", vifs)
        if case.bridge_goes:
            self._host.rtnl.delete("xenbr0")
        for vif in vifs:
            self._detach(vif)
        self._snapshot("detached", vifs)
        for vif in vifs:
            bed.netback.destroy(vif)
            bed.toolstack.forget_vif(vif)
        self._snapshot("gone", ())
        return self.state

    def _attach(self, domain: Domain, devid: int, spec: VifSpec) -> Vif:
        bed = self._bed
        vif = bed.toolstack.add_vif(domain, replace(spec, script="vif-bridge"), devid)
        for node, value in self._case.nodes:
            if value is None:
                bed.toolstack.xs.rm(f"{vif.backend}/{node}")
            else:
                bed.toolstack.xs.write(f"{vif.backend}/{node}", value)
        namespace = self._host.guest(vif.netdev)
        bed.netback.probe(vif)
        bed.netback.create(vif, namespace)
        self._run("attached", vif, "online")
        if spec.type == "vif_ioemu":
            self._host.tap(vif.tap)
            self._run("attached", vif, "add")
        bed.netfront.connect(vif, namespace)
        if bed.toolstack.xs.get(f"{vif.backend}/hotplug-status") == "connected":
            bed.netback.connect(vif)
        return vif

    def _detach(self, vif: Vif) -> None:
        bed = self._bed
        bed.toolstack.detach_vif(vif)
        bed.netfront.close(vif)
        bed.netback.close(vif)
        self._run("detached", vif, "offline")
        if vif.spec.type == "vif_ioemu":
            self._run("detached", vif, "remove")

    def _run(self, phase: str, vif: Vif, command: str) -> None:
        result = hotplug.run(self._xenstored, vif, command)
        self.state[f"{phase}/{command} {vif.netdev}"] = result.status

    def _snapshot(self, phase: str, vifs: Iterable[Vif]) -> None:
        """All that there is, once it is as it stays: our detach and the kernel's addresses come a moment later."""
        if phase == "detached":
            for vif in vifs:
                self._until_out_of_bridge(vif)
        for vif in vifs:
            self._until_addressed(vif)
        eventually(self._carriers_are_told)
        self.state |= {f"{phase}/{key}": value for key, value in (*self._links(), *self._nodes())}

    def _until_out_of_bridge(self, vif: Vif) -> None:
        """The script's `offline` returns at once; xennetd does it a moment later."""
        if self._daemon is not None:
            eventually(lambda: not {"UP", "master"} & {*self._link(vif), *self._link(vif)["flags"]})

    def _until_addressed(self, vif: Vif) -> None:
        """The kernel gives a port its link-local address when it gives it its carrier."""
        if "UP" in self._link(vif)["flags"]:
            eventually(lambda: self._link(vif)["operstate"] == "UP")

    def _carriers_are_told(self) -> bool:
        """The kernel looks at carriers once a second; until then a link has one and says that it has none."""
        return not any({"NO-CARRIER", "LOWER_UP"} <= set(link["flags"]) for link in self._host.links().values())

    def _link(self, vif: Vif) -> dict[str, Any]:
        link = self._host.link(f"vif-{vif.domid}-{vif.devid}")
        assert link is not None
        return link

    def _links(self) -> Iterable[tuple[str, Any]]:
        for name, link in self._host.links().items():
            yield f"address/{name}", tuple(sorted(self._host.addresses(name)))
            yield from flat(f"link/{name}", link)

    def _nodes(self) -> Iterable[tuple[str, Any]]:
        for node in self._xenstored.dump().nodes:
            yield f"xenstore{node.path}", node.value.decode("latin-1")
            yield f"xenstore{node.path} permissions", node.perms


VOLATILE = ("ifindex", "link_index", "link_netnsid", "fdb_n_learned", "*_timer")


def flat(prefix: str, value: Any) -> Iterable[tuple[str, Any]]:
    """What `ip` shows as keys and plain values, without what is never the same twice."""
    if not isinstance(value, dict):
        yield prefix, tuple(value) if isinstance(value, list) else value
        return
    for key, inner in value.items():
        if not any(fnmatchcase(key, pattern) for pattern in VOLATILE):
            yield from flat(f"{prefix}/{key}", inner)


def compare(stock: State, ours: State, expected: Iterable[Difference]) -> list[str]:
    """The differences that are not expected, and the expected ones that are not there, a line each."""
    complaints = []
    unmet = set(expected)
    for key in sorted(stock.keys() | ours.keys()):
        pair = stock.get(key, ABSENT), ours.get(key, ABSENT)
        if pair[0] == pair[1]:
            continue
        explained = {each for each in expected if fnmatchcase(key, each.where) and each.holds(*pair)}
        unmet -= explained
        if not explained:
            complaints.append(f"{key}: stock {pair[0]!r}, ours {pair[1]!r}")
    return complaints + [f"no such difference: {each.where} ({each.why})" for each in unmet]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same_as_stock_but_for_what_is_listed(case: Case, tmp_path: Path) -> None:
    with closing(Side(case, tmp_path, ours=False)) as side:
        stock = side.play()
    with closing(Side(case, tmp_path, ours=True)) as side:
        ours = side.play()
    complaints = compare(stock, ours, case.differences)
    assert not complaints, "\n".join(complaints)
