"""A guest's port: what its link must be, and the Steps from what it is to that.

Rule 1: a link that was never connected is configured while it is down; it comes up last, in its bridge.
Rule 2: a connected port is repaired or moved without taking it down, unless the kernel insists (a rename).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from xennetd.model.link import GUEST_PORT_ADDRESS, IFF_UP, IN6_ADDR_GEN_MODE_NONE, Link
from xennetd.plan.steps import (
    DeleteAddress,
    Rename,
    SetAddress,
    SetAddrGenMode,
    SetDown,
    SetMaster,
    SetMtu,
    SetUp,
    Step,
)


@dataclass(frozen=True, slots=True)
class PortGoal:
    """What a guest's link must be: its name and the bridge it is a port of, by index, name and MTU.

    `mtu` is what the link is to be given, None for one that has been given its MTU before: netback lowers it for a
    frontend without scatter-gather, and no later change of another port's MTU may spread to this one.
    """

    name: str
    bridge: int
    bridge_name: str
    bridge_mtu: int
    mtu: int | None


def attach(goal: PortGoal, link: Link, *, fresh: bool) -> tuple[Step, ...]:
    """Return the Steps from `link` to `goal`. `fresh` says that this link was never connected.

    A port with a smaller MTU than its bridge's would drag the bridge's down (br_mtu_auto_adjust(), net/bridge/br_if.c),
    and the host's own traffic with it; so the bridge is given its MTU back, which also ends the dragging for good.
    """
    steps: list[Step] = []
    name = link.name
    moves = link.master != goal.bridge
    down = not link.up
    if not down and (link.name != goal.name or not link.master or (fresh and moves)):
        steps.append(SetDown(link.index, name))
        down = True
    if link.name != goal.name:
        steps.append(Rename(link.index, link.name, goal.name))
        name = goal.name
    if link.address != GUEST_PORT_ADDRESS:
        steps.append(SetAddress(link.index, name, GUEST_PORT_ADDRESS))
    if link.addr_gen_mode != IN6_ADDR_GEN_MODE_NONE:
        steps.append(SetAddrGenMode(link.index, name))
    steps += [DeleteAddress(link.index, name, address) for address in sorted(link.addresses, key=str)]
    sets_mtu = goal.mtu is not None and goal.mtu != link.mtu
    mtu = link.mtu if goal.mtu is None else goal.mtu
    if sets_mtu:
        steps.append(SetMtu(link.index, name, mtu, needed=False))
    if moves:
        steps.append(SetMaster(link.index, name, goal.bridge, goal.bridge_name))
    if (moves or sets_mtu) and mtu < goal.bridge_mtu:
        steps.append(SetMtu(goal.bridge, goal.bridge_name, goal.bridge_mtu, needed=False))
    if down:
        steps.append(SetUp(link.index, name))
    return tuple(steps)


def release(link: Link) -> tuple[Step, ...]:
    """Return the Steps that take a link out of service: down first, then out of its bridge."""
    steps: list[Step] = []
    if link.up:
        steps.append(SetDown(link.index, link.name))
    if link.master:
        steps.append(SetMaster(link.index, link.name, 0))
    return tuple(steps)


def apply(steps: tuple[Step, ...], link: Link) -> Link:
    """Return what `link` is once `steps` have been done to it: the kernel's part, as far as these Steps go."""
    for step in steps:
        if step.index != link.index:
            continue
        match step:
            case SetDown():
                link = replace(link, flags=link.flags & ~IFF_UP)
            case SetUp():
                link = replace(link, flags=link.flags | IFF_UP)
            case Rename():
                link = replace(link, name=step.to)
            case SetAddress():
                link = replace(link, address=step.address)
            case SetAddrGenMode():
                link = replace(link, addr_gen_mode=IN6_ADDR_GEN_MODE_NONE)
            case DeleteAddress():
                link = replace(link, addresses=link.addresses - {step.address})
            case SetMtu():
                link = replace(link, mtu=step.mtu)
            case SetMaster():
                link = replace(link, master=step.master)
            case _:
                assert_never(step)
    return link
