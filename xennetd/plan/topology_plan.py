"""What an apply of the host's topology would do, and why it must not be done. Pure.

Rule 1: a link with addresses that its new bridge or bond would cut off is made no port, and no address is put on a
port. Nobody is locked out.
Rule 2: a link of another kind, or a VLAN that xennetd did not make, is never replaced.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from xennetd.model.ip import IPAddress, IPInterface
from xennetd.model.ip_entry import IpEntry
from xennetd.model.link_objects import HostLink, HostPort
from xennetd.model.objects import HostAddress, HostObject, Key, link_key
from xennetd.plan.difference import Change, HostStep, Make, Remove, difference

_ADDRESSES = ("address", "ip address")
"""The kinds of keys of an address: one that the configuration gives to a link, and one that another link adopts."""


@dataclass(frozen=True, slots=True)
class TopologyPlan:
    """The Steps of an apply, and the sentences that say of an object why the apply is refused as a whole.

    `cautions` say why it is refused unless it is rolled back without a confirmation. `gone` are the addresses that the
    host has no more after the Steps, and `shaken` those whose link is made anew or loses a port, itself or below it:
    who asks for connections to them has the `cautions` from `interrupted`. `remarks` are sentences about what is not
    among the Steps.
    """

    steps: tuple[HostStep, ...] = ()
    refusals: Mapping[Key, str] = field(default_factory=dict)
    cautions: tuple[str, ...] = ()
    gone: frozenset[IPAddress] = frozenset()
    shaken: frozenset[IPAddress] = frozenset()
    remarks: tuple[str, ...] = ()


def topology_plan(
    desired: Mapping[Key, HostObject],
    observed: Mapping[Key, HostObject],
    addresses: Mapping[str, Collection[IPInterface]],
    known: Collection[str] = (),
) -> TopologyPlan:
    """Return the plan that turns `observed` into `desired`, without cautions.

    `observed` holds the objects with a desired key, and those that are to be removed. `addresses` are those of the
    host's links by their names. `known` are the names of the links that the topology before and the desired one name.
    """
    steps = difference(desired, observed)
    removed = frozenset(str(step.object.key) for step in steps if isinstance(step, Remove))
    refusals = {
        **_cut_off(steps, removed, addresses),
        **_misplaced(steps, desired),
        **_taken(steps, addresses, known),
        **_lost(steps, removed, addresses, desired),
        **_replaced(steps),
    }
    shaken = _shaken(steps, removed, desired, observed, addresses)
    return TopologyPlan(steps, refusals, gone=_gone(steps, desired, addresses), shaken=shaken)


def interrupted(plan: TopologyPlan, sessions: Mapping[IPAddress, int]) -> tuple[str, ...]:
    """Return a caution for each address that goes or is shaken, with the number of others' connections to it."""
    return tuple(
        f"{ip} {'goes' if ip in plan.gone else 'loses a link that it is reached by'}, and with it "
        f"{count} connection{'s' if count > 1 else ''} to this host: to do it all the same, and have it rolled back if "
        "you can't come back, use xennetctl apply --confirm"
        for ip, count in sorted(sessions.items(), key=str)
    )


def _shaken(
    steps: Collection[HostStep],
    removed: Collection[str],
    desired: Mapping[Key, HostObject],
    observed: Mapping[Key, HostObject],
    addresses: Mapping[str, Collection[IPInterface]],
) -> frozenset[IPAddress]:
    links = {name for step in steps if (name := _loser(step)) is not None and not _has_another(name, desired, observed)}
    above: dict[str, set[str]] = {}
    for item in observed.values():
        if isinstance(item, HostPort):
            above.setdefault(item.link, set()).add(item.master)
        elif isinstance(item, HostLink) and item.parent:
            above.setdefault(item.parent, set()).add(item.name)
    waiting = list(links)
    while waiting:
        new = above.get(waiting.pop(), set()) - links
        links |= new
        waiting += new
    return frozenset(
        each.ip
        for name in links
        for each in addresses.get(name, ())
        if not each.is_link_local and not _goes(str(each), name, removed)
    )


def _loser(step: HostStep) -> str | None:
    """Return the link that loses a port by a Step, or that is made anew."""
    match step:
        case Remove(object=HostPort() as port):
            return port.master
        case Change(was=HostPort() as port):
            return port.master
        case Change(object=HostLink() as link, was=HostLink() as was) if link.is_made_anew(was):
            return link.name
        case _:
            return None


def _has_another(name: str, desired: Mapping[Key, HostObject], observed: Mapping[Key, HostObject]) -> bool:
    """Return whether a bond keeps one of its ports."""
    link = desired.get(link_key(name))
    ports = (item for item in desired.values() if isinstance(item, HostPort) and item.master == name)
    return isinstance(link, HostLink) and link.kind == "bond" and any(observed.get(port.key) == port for port in ports)


def _gone(
    steps: Collection[HostStep], desired: Mapping[Key, HostObject], addresses: Mapping[str, Collection[IPInterface]]
) -> frozenset[IPAddress]:
    gone = {ip for step in steps if isinstance(step, Remove) for ip in _addresses_of(step.object)}
    for step in steps:
        if isinstance(step, Remove) and isinstance(step.object, HostLink):
            gone |= {address.ip for address in addresses.get(step.object.name, ())}
    return frozenset(gone - {ip for item in desired.values() for ip in _addresses_of(item)})


def _addresses_of(item: HostObject) -> tuple[IPAddress, ...]:
    if isinstance(item, HostAddress):
        return (item.address.ip,)
    return (item.interface.ip,) if isinstance(item, IpEntry) and item.interface is not None else ()


def _cut_off(
    steps: Collection[HostStep], removed: Collection[str], addresses: Mapping[str, Collection[IPInterface]]
) -> dict[Key, str]:
    refusals = {}
    for step in steps:
        port = step.object
        if not isinstance(port, HostPort) or isinstance(step, Remove):
            continue
        held = [each for each in _global(addresses.get(port.link, ())) if not _goes(each, port.link, removed)]
        if held:
            refusals[port.key] = (
                f"{port.link} has {', '.join(held)}, which nobody could reach any more once it is a port of "
                f'{port.master}: set addresses = "adopt" where they are to be, or take them off {port.link}'
            )
    return refusals


def _misplaced(steps: Collection[HostStep], desired: Mapping[Key, HostObject]) -> dict[Key, str]:
    """Return why addresses are not put on ports, be they the configuration's or what another link had adopted."""
    ports = {item.link: item.master for item in desired.values() if isinstance(item, HostPort)}
    refusals = {}
    for step in steps:
        address = step.object
        link = _holder(address)
        if isinstance(step, Make) and link in ports:
            what = address.key.name.removesuffix(f" on {link}")
            refusals[address.key] = (
                f"{link} would get {what}, which nobody could reach there, since {link} is a port of {ports[link]}: "
                f'set addresses = "adopt" where {what} is to be, or take {what} away first'
            )
    return refusals


def _holder(item: HostObject) -> str | None:
    """Return the link of an address other than a link-local one, None for another object."""
    if isinstance(item, HostAddress):
        return None if item.address.is_link_local else item.link
    if isinstance(item, IpEntry) and item.interface is not None and not item.interface.is_link_local:
        return item.links[0]
    return None


def _taken(
    steps: Collection[HostStep], addresses: Mapping[str, Collection[IPInterface]], known: Collection[str]
) -> dict[Key, str]:
    """Return why a port is not taken out of somebody else's bridge: the host has addresses there."""
    refusals = {}
    for step in steps:
        if not isinstance(step, Change) or not isinstance(port := step.object, HostPort):
            continue
        master = step.was.master if isinstance(step.was, HostPort) else ""
        held = _global(addresses.get(master, ())) if master not in known else []
        if held:
            refusals[port.key] = (
                f"{port.link} is a port of {master}, which has {', '.join(held)} and which the configuration does not "
                f"name: name {master} in the place of {port.master}, or take {port.link} out of {master} first"
            )
    return refusals


def _lost(
    steps: Collection[HostStep],
    removed: frozenset[str],
    addresses: Mapping[str, Collection[IPInterface]],
    desired: Mapping[Key, HostObject],
) -> dict[Key, str]:
    """Return why a link is neither deleted nor silenced: it has addresses that nothing takes over."""
    refusals = {}
    for step in steps:
        link = step.object
        if not isinstance(link, HostLink):
            continue
        silenced = link.silent and not (isinstance(step, Change) and getattr(step.was, "silent", None))
        anew = isinstance(step, Change) and isinstance(step.was, HostLink) and link.is_made_anew(step.was)
        if not isinstance(step, Remove) and not silenced and not anew:
            continue
        kept = {str(key) for key in desired} if anew else frozenset()
        gone = removed | kept
        held = [each for each in _global(addresses.get(link.name, ())) if not _goes(each, link.name, gone)]
        if held:
            what = "nobody could reach on a silent link" if silenced else "would be lost with it"
            what = "would be lost, since the link is made anew" if anew else what
            refusals[link.key] = f"{link.name} has {', '.join(held)}, which {what}: take them off {link.name} first"
    return refusals


def _global(addresses: Collection[IPInterface]) -> list[str]:
    return [str(address) for address in addresses if not address.is_link_local]


def _goes(address: str, link: str, removed: Collection[str]) -> bool:
    """Return whether an address goes with the plan, because the configuration drops it or another link adopts it."""
    return any(f"{kind} {address} on {link}" in removed for kind in _ADDRESSES)


def _replaced(steps: Collection[HostStep]) -> dict[Key, str]:
    return {
        wanted.key: f'"{wanted.name}" can\'t be a {wanted.kind}: there is a link of another kind with that name'
        for step in steps
        if isinstance(step, Change) and isinstance(wanted := step.object, HostLink)
        if isinstance(step.was, HostLink) and step.was.kind != wanted.kind
    }
