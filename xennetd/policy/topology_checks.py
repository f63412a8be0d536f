"""What no single table of the topology shows: links that can't be built on one another, and what two of them claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address

from xennetd.config.document import Place
from xennetd.config.problem import Problem, shown
from xennetd.config.topology_schema import SECTIONS
from xennetd.model.ip import IPAddress
from xennetd.model.link_settings import VXLAN_PORT
from xennetd.model.topology import ON_A_PARENT, Topology
from xennetd.policy.network_reader import NetworkDraft
from xennetd.policy.topology_reader import LinkDraft

_NO_PORTS_OF_BONDS = ("bond", "vlan", "vxlan", "bridge")
_ACTIVE_BACKUP, _LACP = 1, 4
_PRIMARY_MODES = frozenset({_ACTIVE_BACKUP, 5, 6})
_NO_ARP_MODES = frozenset({_LACP, 5, 6})
"""Numbers of bond modes: which have a primary port, and which can't watch their ports by ARP (bonding.rst)."""


def check_topology(drafts: Mapping[str, LinkDraft], networks: Sequence[NetworkDraft], problems: list[Problem]) -> None:
    """Report what links of the topology can't be together, and what they claim that networks have."""
    for draft in drafts.values():
        _check_ports(draft, drafts, problems)
        _check_bond(draft, problems)
        _check_bridge(draft, problems)
        _check_vxlan(draft, problems)
        _check_mtu(draft, drafts, problems)
    _check_masters(drafts, problems)
    _check_cycles(drafts, problems)
    _check_vlans(drafts, problems)
    _check_vxlans(drafts, problems)
    _check_adoptions(drafts, problems)
    _check_nics(drafts, problems)
    _check_addresses(drafts, networks, problems)
    _check_bridges_of_networks(drafts, networks, problems)


def _check_ports(draft: LinkDraft, drafts: Mapping[str, LinkDraft], problems: list[Problem]) -> None:
    for i, (place, name) in enumerate(_below(draft)):
        if name in draft.link.below[:i]:
            problems.append(place.problem("given twice", found=shown(name)))
        other = drafts.get(name)
        if other is None:
            continue
        kind, under = draft.link.kind, other.link.kind
        if kind == "bond" and under in _NO_PORTS_OF_BONDS:
            text = f"a bond's ports are NICs, and this is {other.place.key} at {other.place}"
            problems.append(place.problem(text, found=shown(name)))
        elif kind == "bridge" and under == "bridge":
            text = f"a bridge is no port of a bridge, and this is {other.place.key} at {other.place}"
            problems.append(place.problem(text, found=shown(name)))


def _below(draft: LinkDraft) -> list[tuple[Place, str]]:
    """Return the links that a link is built on, with the places that name them."""
    if draft.link.kind in ON_A_PARENT:
        return [(draft.place / "parent", draft.link.parent)] if draft.link.parent else []
    return [(draft.place / "ports" / i, name) for i, name in enumerate(draft.link.ports)]


def _check_bond(draft: LinkDraft, problems: list[Problem]) -> None:
    if draft.link.kind != "bond":
        return
    settings = dict(draft.link.settings)
    mode, primary = settings.get("mode"), settings.get("primary")
    if mode is None and "mode" not in draft.faulty:
        problems.append((draft.place / "mode").problem("missing", allowed=_allowed(draft, "mode")))
    if primary is not None and primary not in draft.link.ports:
        problems.append((draft.place / "primary").problem("not one of the bond's ports", found=shown(primary)))
    if primary is not None and mode is not None and mode not in _PRIMARY_MODES:
        problems.append((draft.place / "primary").problem("only for modes active-backup, balance-tlb and balance-alb"))
    if "lacp_rate" in settings and mode is not None and mode != _LACP:
        problems.append((draft.place / "lacp_rate").problem("only for mode 802.3ad"))
    if settings.get("arp_interval"):
        place = draft.place / "arp_interval"
        if settings.get("miimon"):
            problems.append(place.problem("not beside miimon: a bond watches its ports in one way"))
        if mode in _NO_ARP_MODES:
            problems.append(place.problem("not for modes 802.3ad, balance-tlb and balance-alb"))
        if "arp_ip_target" not in settings and "arp_ip_target" not in draft.faulty:
            problems.append(place.problem("needs arp_ip_target: the addresses that the bond asks for"))


def _allowed(draft: LinkDraft, key: str) -> tuple[str, ...]:
    return SECTIONS[draft.link.kind][key].allowed


def _check_bridge(draft: LinkDraft, problems: list[Problem]) -> None:
    settings = dict(draft.link.settings)
    delay = settings.get("forward_delay")
    if draft.link.kind == "bridge" and settings.get("stp_state") and isinstance(delay, int) and delay < 200:
        text = "too short: with stp the kernel takes 2 to 30 seconds"
        problems.append((draft.place / "forward_delay").problem(text, found=str(delay // 100)))


def _check_vxlan(draft: LinkDraft, problems: list[Problem]) -> None:
    if draft.link.kind != "vxlan":
        return
    settings = dict(draft.link.settings)
    if "id" not in settings and "id" not in draft.faulty:
        problems.append((draft.place / "id").problem("missing", allowed=_allowed(draft, "id")))
    peer = settings.get("group")
    if isinstance(peer, str) and IPv4Address(peer).is_multicast and not draft.link.parent:
        text = "a multicast group needs parent: the link on which its members are"
        problems.append((draft.place / "remote").problem(text, found=shown(peer)))


def _check_vxlans(drafts: Mapping[str, LinkDraft], problems: list[Problem]) -> None:
    first: dict[tuple[object, ...], LinkDraft] = {}
    for draft in drafts.values():
        settings = dict(draft.link.settings)
        if draft.link.kind != "vxlan" or "id" not in settings:
            continue
        earlier = first.setdefault((settings["id"], settings.get("port", VXLAN_PORT)), draft)
        if earlier is not draft:
            text = f"the same VXLAN as {earlier.place.key} at {earlier.place}"
            problems.append((draft.place / "id").problem(text, found=str(settings["id"])))


def _check_mtu(draft: LinkDraft, drafts: Mapping[str, LinkDraft], problems: list[Problem]) -> None:
    """Report an MTU that is larger than that of what is below it, as far as the configuration gives both."""
    mtu = draft.link.mtu
    for name in draft.link.below if mtu is not None else ():
        other = drafts.get(name)
        if other is None or other.link.mtu is None or mtu is None or mtu <= other.link.mtu:
            continue
        text = f"larger than {other.link.mtu}, the mtu of {other.place.key} at {other.place}"
        problems.append((draft.place / "mtu").problem(text, found=str(mtu)))


def _check_masters(drafts: Mapping[str, LinkDraft], problems: list[Problem]) -> None:
    """Report a port of two links, and a bond's port that something else is built on."""
    masters: dict[str, tuple[LinkDraft, Place]] = {}
    for draft in drafts.values():
        for place, name in _below(draft):
            if draft.link.kind in ON_A_PARENT:
                continue
            first, at = masters.setdefault(name, (draft, place))
            if first is not draft:
                text = f"a port of {first.place.key} already, at {at}; a link is a port of one link"
                problems.append(place.problem(text, found=shown(name)))
    for draft in drafts.values():
        for place, name in _below(draft):
            master = masters.get(name)
            if draft.link.kind in ON_A_PARENT and master is not None and master[0].link.kind == "bond":
                text = f"a port of {master[0].place.key} at {master[1]}: put the {draft.link.kind.upper()} on the bond"
                problems.append(place.problem(text, found=shown(name)))
        held = masters.get(draft.link.name)
        if held is not None and draft.link.addresses:
            text = f"this link is a port of {held[0].place.key} at {held[1]}: give that link the addresses"
            problems.append((draft.place / "addresses").problem(text))


def _check_cycles(drafts: Mapping[str, LinkDraft], problems: list[Problem]) -> None:
    """Report each cycle once, at the link of the cycle that comes first in the files."""
    order = list(drafts)
    done: set[str] = set()
    for start in order:
        path: list[str] = []
        stack = [(start, 0)]
        while stack:
            name, at = stack.pop()
            if at == 0:
                if name in path:
                    circle = path[path.index(name) :]
                    if not done & set(circle):
                        first = min(circle, key=order.index)
                        turned = circle[circle.index(first) :] + circle[: circle.index(first)]
                        text = f"a circle: {' on '.join((*turned, first))}"
                        problems.append(drafts[first].place.problem(text))
                        done.update(circle)
                    continue
                if name in done or name not in drafts:
                    continue
                path.append(name)
            below = drafts[name].link.below
            if at < len(below):
                stack += [(name, at + 1), (below[at], 0)]
            else:
                path.pop()
                done.add(name)


def _check_adoptions(drafts: Mapping[str, LinkDraft], problems: list[Problem]) -> None:
    """Report a link that two links adopt from."""
    topology = Topology(tuple(draft.link for draft in drafts.values()))
    first: dict[str, LinkDraft] = {}
    for draft in drafts.values():
        for name in topology.below(draft.link) if draft.link.adopts else ():
            earlier = first.setdefault(name, draft)
            if earlier is not draft:
                text = f"{earlier.place.key} at {earlier.place} adopts already what {name} has"
                problems.append((draft.place / "addresses").problem(text))
                break


def _check_vlans(drafts: Mapping[str, LinkDraft], problems: list[Problem]) -> None:
    first: dict[tuple[object, ...], LinkDraft] = {}
    for draft in drafts.values():
        settings = dict(draft.link.settings)
        if draft.link.kind != "vlan" or not draft.link.parent or "id" not in settings:
            continue
        earlier = first.setdefault((draft.link.parent, settings["id"], settings.get("protocol", 0x8100)), draft)
        if earlier is not draft:
            text = f"the same VLAN of {draft.link.parent} as {earlier.place.key} at {earlier.place}"
            problems.append(draft.place.problem(text, found=str(settings["id"])))


def _check_nics(drafts: Mapping[str, LinkDraft], problems: list[Problem]) -> None:
    first: dict[str, LinkDraft] = {}
    for draft in drafts.values():
        if draft.link.kind != "nic":
            continue
        for key in ("mac", "path"):
            value = getattr(draft.link, key)
            earlier = first.setdefault(value, draft) if value is not None else draft
            if earlier is not draft:
                text = f"given already at {earlier.place / key}: two names for one NIC"
                problems.append((draft.place / key).problem(text, found=shown(value)))


def _check_addresses(
    drafts: Mapping[str, LinkDraft], networks: Sequence[NetworkDraft], problems: list[Problem]
) -> None:
    first: dict[IPAddress, Place] = {}
    for draft in drafts.values():
        for i, address in enumerate(draft.link.addresses or ()):
            place = draft.place / "addresses" / i
            earlier = first.setdefault(address.ip, place)
            if earlier is not place:
                problems.append(place.problem(f"given already at {earlier}", found=shown(str(address.ip))))
            for network in networks:
                for at, prefix in network.prefixes if network.network.own else ():
                    if prefix.version == address.version and prefix.overlaps(address.network):
                        text = f"overlaps {prefix}, {at.key} at {at}"
                        problems.append(place.problem(text, found=shown(str(address))))


def _check_bridges_of_networks(
    drafts: Mapping[str, LinkDraft], networks: Sequence[NetworkDraft], problems: list[Problem]
) -> None:
    """Report links that a network makes itself, and bridges of networks that are links of another kind."""
    for network in networks:
        made = network.network.served_link
        name = made or network.network.bridge
        draft = drafts.get(name)
        if draft is None:
            continue
        if made:
            text = f"belongs to {network.place.key} at {network.place}, which makes it itself"
            problems.append(draft.place.problem(text))
        elif draft.link.kind != "bridge":
            text = f"{draft.place.key} at {draft.place} is no bridge"
            problems.append((network.place / "bridge").problem(text, found=shown(name)))
