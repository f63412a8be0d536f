"""Conflicts between networks and policies about a bridge, an address or a forwarded port. The later one is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_network

from xennetd.config.document import Place
from xennetd.config.problem import Problem, shown
from xennetd.model.configuration import Forward, Network
from xennetd.model.ip import IPAddress, IPNetwork
from xennetd.policy.modes import keys_of, modes_with
from xennetd.policy.network_objects import bridge_mac
from xennetd.policy.network_reader import NetworkDraft, unfit
from xennetd.policy.rule_reader import RuleDraft


def check_networks(drafts: Sequence[NetworkDraft], problems: list[Problem]) -> None:
    """Report bridges, prefixes and forwarded ports that two networks have but only one can have."""
    _check_bridges(drafts, problems)
    _check_prefixes([prefix for draft in drafts for prefix in draft.prefixes], problems)
    _check_forwards(drafts, problems)


def check_addresses(rules: Sequence[RuleDraft], networks: Mapping[str, NetworkDraft], problems: list[Problem]) -> None:
    """Report fixed addresses of rules that do not fit their network, or that another rule or network has."""
    places: dict[tuple[str, IPAddress], Place] = {}
    for draft in rules:
        network, ips = networks.get(draft.network or ""), draft.rule.ips
        if network is None or not ips:
            continue
        place = draft.place / "ip"
        if "subnets" not in keys_of(network.network.mode):
            modes = " or ".join(", ".join(modes_with("subnets")).rsplit(", ", 1))
            text = f"only in a network of mode {modes}; {network.place.key} is of mode {network.network.mode}"
            problems.append(place.problem(text))
            continue
        for i, ip in enumerate(ips):
            reason = _misfit(ip, ips[:i], network, networks) if network.whole else None
            earlier = places.setdefault((_scope(network.network), ip), place / i)
            if reason is None and earlier != place / i:
                reason = f"given already at {earlier}"
            if reason is not None:
                problems.append((place / i).problem(reason, found=shown(str(ip))))


def _misfit(
    ip: IPAddress, before: Sequence[IPAddress], draft: NetworkDraft, networks: Mapping[str, NetworkDraft]
) -> str | None:
    network = draft.network
    if reason := unfit(network, ip_network(ip)):
        return reason
    if network.dhcp and any(earlier.version == ip.version for earlier in before):
        return f"a second IPv{ip.version} address; with dhcp a guest has at most one of each IP version"
    if _scope(network):
        return None
    for other in networks.values():
        for place, prefix in other.prefixes:
            if other is not draft and ip in prefix:
                return f"belongs to {prefix}, {place.key} at {place}"
    return None


def _scope(network: Network) -> str:
    """Return the scope in which an address must be unique: "" for the host, or a network without the host's address."""
    closed = not network.mode.way_out and not network.subnets
    return network.name if closed else ""


def _check_bridges(drafts: Sequence[NetworkDraft], problems: list[Problem]) -> None:
    users: dict[str, NetworkDraft] = {}
    _check_macs([draft for draft in drafts if draft.network.served_link], problems)
    for draft in drafts:
        name = draft.network.served_link or draft.network.bridge
        earlier = users.setdefault(name, draft)
        if name and earlier is not draft and (earlier.network.served_link or draft.network.served_link):
            text = f"belongs to {earlier.place.key} at {earlier.place}; two networks can't share it"
            problems.append((draft.place / "bridge").problem(text, found=shown(name)))
    for draft in drafts:
        uplink = draft.network.uplink
        user = users.get(uplink or "")
        if uplink and user is not None and user.network.own:
            text = f"leads nowhere: it is the bridge of {user.place.key} at {user.place}"
            problems.append((draft.place / "uplink").problem(text, found=shown(uplink)))


def _check_macs(drafts: Sequence[NetworkDraft], problems: list[Problem]) -> None:
    """Report bridges of two networks with one MAC, by which xennetd recognises a bridge under another name."""
    first: dict[str, NetworkDraft] = {}
    for draft in drafts:
        name = draft.network.served_link
        earlier = first.setdefault(bridge_mac(name), draft)
        if name != (other := earlier.network.served_link):
            text = (
                f'is too much like "{other}", the bridge of {earlier.place.key} at {earlier.place}: two bridges that '
                'xennetd makes must differ in more than a leading "xn-"'
            )
            problems.append((draft.place / "bridge").problem(text, found=shown(name)))


def _check_prefixes(prefixes: Sequence[tuple[Place, IPNetwork]], problems: list[Problem]) -> None:
    # Of two prefixes that overlap, one contains the other. Sorted, a prefix comes right after the widest that contains
    # it, but for other prefixes of the same widest one.
    widest: int | None = None
    for i in sorted(range(len(prefixes)), key=lambda i: (prefixes[i][1].version, prefixes[i][1], i)):
        if widest is None or not _overlap(prefixes[widest][1], prefixes[i][1]):
            widest = i
            continue
        (earlier, other), (place, prefix) = prefixes[min(i, widest)], prefixes[max(i, widest)]
        problems.append(place.problem(f"overlaps {other}, {earlier.key} at {earlier}", found=shown(str(prefix))))


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)


def _check_forwards(drafts: Sequence[NetworkDraft], problems: list[Problem]) -> None:
    places: dict[tuple[str, int, int], Place] = {}
    for draft in drafts:
        for place, forward in draft.forwards:
            taken = [
                earlier
                for version in _versions(draft.network, forward)
                if (earlier := places.setdefault((forward.proto, forward.port, version), place)) is not place
            ]
            if taken:
                text = f"{forward.proto} port {forward.port} is forwarded already at {taken[0]}"
                problems.append((place / "port").problem(text))


def _versions(network: Network, forward: Forward) -> tuple[int, ...]:
    """Return the IP versions in which the port is forwarded: both, if a faulty network leaves this open."""
    if not isinstance(forward.to, str):
        return (forward.to.version,)
    versions = tuple(subnet.version for subnet in (network.subnet4, network.subnet6) if subnet is not None)
    return versions or (4, 6)
