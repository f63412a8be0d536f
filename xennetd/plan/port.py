"""A guest's port: what its link must be, and the Steps from what it is to that.

Rule 1: a link that was never connected is configured while it is down; it comes up last, in its bridge. What the
kernel takes only from a link that is up (addresses, neighbours, routes) follows; without it no frame gets beyond us.
Rule 2: a connected port is repaired or moved without taking it down, unless the kernel insists (a rename) or it is to
be routed instead of bridged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar, assert_never

from xennetd.model.ground import GUEST_GROUP, Setting
from xennetd.model.link import GUEST_PORT_ADDRESS, IFF_UP, IN6_ADDR_GEN_MODE_NONE, Link, Neighbour, Route
from xennetd.model.vif import IPInterface
from xennetd.plan.steps import (
    AddAddress,
    AddRoute,
    DeleteAddress,
    DeleteNeighbour,
    DeleteRoute,
    Ensure,
    LinkStep,
    Rename,
    SetAddress,
    SetAddrGenMode,
    SetDown,
    SetGroup,
    SetMaster,
    SetMtu,
    SetNeighbour,
    SetSetting,
    SetUp,
    Step,
)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PortGoal:
    """What a guest's link must be: its name and the bridge it is a port of, by index, name and MTU; or routed.

    A `bridge` of 0 means routed: the host's `addresses` on the link, `routes` through it and `neighbours` behind it.
    `taken` are those of the routes that lead through another link of ours now. `settings` are those that are not as
    they must be now. `mtu` is what the link is to be given, None for one that has been given its MTU before: netback
    lowers it for a frontend without scatter-gather, and no later change of another port's MTU may spread to this one.
    """

    name: str
    bridge: int = 0
    bridge_name: str = ""
    bridge_mtu: int = 0
    mtu: int | None = None
    addresses: tuple[IPInterface, ...] = ()
    routes: frozenset[Route] = frozenset()
    taken: frozenset[Route] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    settings: tuple[Setting, ...] = ()

    @property
    def routed(self) -> bool:
        """Whether the link is no bridge's port."""
        return not self.bridge


def in_service(link: Link, *, routed: bool) -> bool:
    """Return whether a link that is up serves its guest in this way, and not only because somebody brought it up."""
    if routed:
        return not link.master and link.group == GUEST_GROUP
    return bool(link.master)


def attach(goal: PortGoal, link: Link, *, fresh: bool) -> tuple[LinkStep, ...]:
    """Return the Steps from `link` to `goal`. `fresh` says that this link was never connected.

    A port with a smaller MTU than its bridge's would drag the bridge's down (br_mtu_auto_adjust(), net/bridge/br_if.c),
    and the host's own traffic with it; so the bridge is given its MTU back, which also ends the dragging for good.
    """
    steps: list[LinkStep] = []
    name = link.name
    moves = link.master != goal.bridge
    serves = in_service(link, routed=goal.routed)
    if link.up and (link.name != goal.name or not serves or (fresh and (moves or goal.settings))):
        steps.append(SetDown(link.index, name))
        link = apply(steps, link)
    if link.name != goal.name:
        steps.append(Rename(link.index, link.name, goal.name))
        name = goal.name
    if link.address != GUEST_PORT_ADDRESS:
        steps.append(SetAddress(link.index, name, GUEST_PORT_ADDRESS))
    if link.addr_gen_mode != IN6_ADDR_GEN_MODE_NONE:
        steps.append(SetAddrGenMode(link.index, name))
    if (link.group == GUEST_GROUP) != goal.routed:
        steps.append(SetGroup(link.index, name, goal.routed))
    steps += [DeleteRoute(link.index, name, route) for route in _ordered(link.routes - goal.routes)]
    steps += [DeleteNeighbour(link.index, name, each) for each in _ordered(link.neighbours - goal.neighbours)]
    steps += [DeleteAddress(link.index, name, each) for each in _ordered(set(link.addresses) - set(goal.addresses))]
    sets_mtu = goal.mtu is not None and goal.mtu != link.mtu
    mtu = link.mtu if goal.mtu is None else goal.mtu
    if sets_mtu:
        steps.append(SetMtu(link.index, name, mtu, needed=False))
    if moves:
        steps.append(SetMaster(link.index, name, goal.bridge, goal.bridge_name))
    if (moves or sets_mtu) and mtu < goal.bridge_mtu:
        steps.append(SetMtu(goal.bridge, goal.bridge_name, goal.bridge_mtu, needed=False))
    steps += [SetSetting(link.index, name, setting) for setting in goal.settings]
    if not link.up:
        steps.append(SetUp(link.index, name))
    steps += [AddAddress(link.index, name, each) for each in goal.addresses if each not in link.addresses]
    steps += [SetNeighbour(link.index, name, each) for each in _ordered(goal.neighbours - link.neighbours)]
    steps += [
        AddRoute(link.index, name, route, replace=route in goal.taken) for route in _ordered(goal.routes - link.routes)
    ]
    return tuple(steps)


def release(link: Link) -> tuple[LinkStep, ...]:
    """Return the Steps that take a link out of service: down first, then out of its bridge.

    The kernel takes the routes and neighbours of a link that goes down.
    """
    steps: list[LinkStep] = []
    if link.up:
        steps.append(SetDown(link.index, link.name))
    if link.master:
        steps.append(SetMaster(link.index, link.name, 0))
    return tuple(steps)


def apply(steps: Iterable[Step], link: Link) -> Link:
    """Return what `link` is once `steps` have been done to it: the kernel's part, as far as these Steps go."""
    for step in steps:
        if isinstance(step, Ensure) or step.index != link.index:
            continue
        match step:
            case SetDown():
                # The kernel takes routes, neighbours and IPv6 addresses away with it.
                kept = tuple(address for address in link.addresses if address.version == 4)
                flags = link.flags & ~IFF_UP
                link = replace(link, flags=flags, addresses=kept, routes=frozenset(), neighbours=frozenset())
            case SetUp():
                link = replace(link, flags=link.flags | IFF_UP)
            case Rename():
                link = replace(link, name=step.to)
            case SetAddress():
                link = replace(link, address=step.address)
            case SetAddrGenMode():
                link = replace(link, addr_gen_mode=IN6_ADDR_GEN_MODE_NONE)
            case SetGroup():
                link = replace(link, group=GUEST_GROUP if step.routed else 0)
            case AddAddress():
                link = replace(link, addresses=(*link.addresses, step.address))
            case DeleteAddress():
                link = replace(link, addresses=tuple(each for each in link.addresses if each != step.address))
            case AddRoute():
                link = replace(link, routes=link.routes | {step.route})
            case DeleteRoute():
                link = replace(link, routes=link.routes - {step.route})
            case SetNeighbour():
                others = {each for each in link.neighbours if each.address != step.neighbour.address}
                link = replace(link, neighbours=frozenset(others | {step.neighbour}))
            case DeleteNeighbour():
                link = replace(link, neighbours=link.neighbours - {step.neighbour})
            case SetMtu():
                link = replace(link, mtu=step.mtu)
            case SetMaster():
                link = replace(link, master=step.master)
            case SetSetting():
                pass
            case _:
                assert_never(step)
    return link


def _ordered(things: Iterable[_T]) -> list[_T]:
    return sorted(things, key=str)
