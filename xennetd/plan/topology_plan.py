"""What an apply of the host's topology would do, and why it must not be done. Pure.

Rule 1: a link with addresses that its new bridge or bond would cut off is made no port. Nobody is locked out.
Rule 2: a link of another kind, or a VLAN that xennetd did not make, is never replaced.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from xennetd.model.ip import IPInterface
from xennetd.model.link_objects import HostLink, HostPort
from xennetd.model.objects import HostAddress, HostObject, Key
from xennetd.plan.difference import Change, HostStep, Remove, difference


@dataclass(frozen=True, slots=True)
class TopologyPlan:
    """The Steps of an apply, and the sentences that say why it is refused as a whole."""

    steps: tuple[HostStep, ...] = ()
    refusals: tuple[str, ...] = ()


def topology_plan(
    desired: Mapping[Key, HostObject],
    observed: Mapping[Key, HostObject],
    addresses: Mapping[str, Collection[IPInterface]],
) -> TopologyPlan:
    """Return the plan that turns `observed` into `desired`.

    `observed` holds the objects with a desired key, and those that are to be removed. `addresses` are those of the
    host's links by their names.
    """
    steps = difference(desired, observed)
    removed = {step.object.key for step in steps if isinstance(step, Remove)}
    refusals = [*_cut_off(steps, removed, addresses), *_replaced(steps)]
    return TopologyPlan(steps, tuple(refusals))


def _cut_off(
    steps: Collection[HostStep], removed: Collection[Key], addresses: Mapping[str, Collection[IPInterface]]
) -> list[str]:
    refusals = []
    for step in steps:
        port = step.object
        if not isinstance(port, HostPort) or isinstance(step, Remove):
            continue
        held = [
            str(address)
            for address in addresses.get(port.link, ())
            if not address.is_link_local and HostAddress(port.link, address).key not in removed
        ]
        if held:
            refusals.append(
                f"{port.link} has {', '.join(held)}, which nobody could reach any more once it is a port of "
                f"{port.master}: take the addresses off {port.link}, or leave {port.link} out of the ports"
            )
    return refusals


def _replaced(steps: Collection[HostStep]) -> list[str]:
    return [
        f'"{wanted.name}" can\'t be a {wanted.kind}: there is a link of another kind with that name'
        for step in steps
        if isinstance(step, Change) and isinstance(wanted := step.object, HostLink)
        if isinstance(step.was, HostLink) and step.was.kind != wanted.kind
    ]
