"""What an apply of the host's topology would do, and why it must not be done. Pure.

Rule 1: a link with addresses that its new bridge or bond would cut off is made no port. Nobody is locked out.
Rule 2: a link of another kind, or a VLAN that xennetd did not make, is never replaced.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from xennetd.model.ip import IPAddress, IPInterface
from xennetd.model.ip_entry import IpEntry
from xennetd.model.link_objects import HostLink, HostPort
from xennetd.model.objects import HostAddress, HostObject, Key
from xennetd.plan.difference import Change, HostStep, Remove, difference

_ADDRESSES = ("address", "ip address")
"""The kinds of keys of an address: one that the configuration gives to a link, and one that another link adopts."""


@dataclass(frozen=True, slots=True)
class TopologyPlan:
    """The Steps of an apply, and the sentences that say of an object why the apply is refused as a whole.

    `cautions` say why it is refused unless it is rolled back without a confirmation.
    """

    steps: tuple[HostStep, ...] = ()
    refusals: Mapping[Key, str] = field(default_factory=dict)
    cautions: tuple[str, ...] = ()


def topology_plan(
    desired: Mapping[Key, HostObject],
    observed: Mapping[Key, HostObject],
    addresses: Mapping[str, Collection[IPInterface]],
    sessions: Mapping[IPAddress, int] | None = None,
) -> TopologyPlan:
    """Return the plan that turns `observed` into `desired`.

    `observed` holds the objects with a desired key, and those that are to be removed. `addresses` are those of the
    host's links by their names. `sessions` are the numbers of connections that others have to addresses of the host.
    """
    steps = difference(desired, observed)
    removed = {str(step.object.key) for step in steps if isinstance(step, Remove)}
    refusals = {**_cut_off(steps, removed, addresses), **_replaced(steps)}
    return TopologyPlan(steps, refusals, tuple(_interrupted(steps, desired, addresses, sessions or {})))


def _interrupted(
    steps: Collection[HostStep],
    desired: Mapping[Key, HostObject],
    addresses: Mapping[str, Collection[IPInterface]],
    sessions: Mapping[IPAddress, int],
) -> list[str]:
    """Return a sentence for each address that goes, and to which somebody is connected."""
    kept = {ip for item in desired.values() for ip in _addresses_of(item)}
    gone = {ip for step in steps if isinstance(step, Remove) for ip in _addresses_of(step.object)}
    for step in steps:
        if isinstance(step, Remove) and isinstance(step.object, HostLink):
            gone |= {address.ip for address in addresses.get(step.object.name, ())}
    return [
        f"{ip} goes, and with it {sessions[ip]} connection{'s' if sessions[ip] > 1 else ''} to this host: to do it all "
        "the same, and have it rolled back if you can't come back, use xennetctl apply --confirm"
        for ip in sorted((gone - kept) & sessions.keys(), key=str)
    ]


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
        held = [
            str(address)
            for address in addresses.get(port.link, ())
            if not address.is_link_local
            and not {f"{kind} {address} on {port.link}" for kind in _ADDRESSES} & set(removed)
        ]
        if held:
            refusals[port.key] = (
                f"{port.link} has {', '.join(held)}, which nobody could reach any more once it is a port of "
                f'{port.master}: set addresses = "adopt" where they are to be, or take them off {port.link}'
            )
    return refusals


def _replaced(steps: Collection[HostStep]) -> dict[Key, str]:
    return {
        wanted.key: f'"{wanted.name}" can\'t be a {wanted.kind}: there is a link of another kind with that name'
        for step in steps
        if isinstance(step, Change) and isinstance(wanted := step.object, HostLink)
        if isinstance(step.was, HostLink) and step.was.kind != wanted.kind
    }
