"""The table of a guest's link: each row is one property, and the rows stand in the order in which Steps are done.

A row says how a link differs from its goal in its property, and which Steps make it right. What a Step does to a link
is the Step's own `effect`; kernel/execute.py turns a Step into a request. A flag of a bridge's port is one row of
`PORT_FLAGS`: its name in a policy, and the IFLA_BRPORT_* attribute (linux/if_link.h) that it is observed and set by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from xennetd.model.link import Link, LinkGoal
from xennetd.model.marks import GUEST_GROUP
from xennetd.model.objects import Sysctl
from xennetd.plan.steps import (
    AddAddress,
    AddRoute,
    DeleteAddress,
    DeleteNeighbour,
    DeleteRoute,
    LinkStep,
    SetLink,
    SetNeighbour,
    SetSysctl,
    set_master,
    set_up,
    set_value,
)

Row = Callable[[Link, LinkGoal], Iterable[LinkStep]]

_T = TypeVar("_T")

PORT_FLAGS: dict[str, int] = {
    "isolated": 33,  # the port's frames go to ports that are not isolated, and to the bridge itself
}


def _name(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    return (set_value(link.index, link.name, "name", goal.name),) if link.name != goal.name else ()


def _address(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    return (set_value(link.index, goal.name, "address", goal.address),) if link.address != goal.address else ()


def _addr_gen_mode(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    """IN6_ADDR_GEN_MODE_NONE keeps the kernel from making an IPv6 link-local address when the link comes up."""
    if link.addr_gen_mode == goal.addr_gen_mode:
        return ()
    return (SetLink(link.index, goal.name, "addr_gen_mode", goal.addr_gen_mode, "addrgenmode none"),)


def _group(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    """In GUEST_GROUP a frame's source must be its guest's. Other groups are somebody else's business."""
    if (link.group == GUEST_GROUP) == (goal.group == GUEST_GROUP):
        return ()
    return (set_value(link.index, goal.name, "group", goal.group),)


def _surplus(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    """What is on the link and must not be goes before the link is anybody's."""
    if not (link.routes or link.neighbours or link.addresses):
        return ()
    index, name = link.index, goal.name
    return (
        *(DeleteRoute(index, name, each) for each in _ordered(link.routes - goal.routes)),
        *(DeleteNeighbour(index, name, each) for each in _ordered(link.neighbours - goal.neighbours)),
        *(DeleteAddress(index, name, each) for each in _ordered(set(link.addresses) - set(goal.addresses))),
    )


def _mtu(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    if goal.mtu is None or goal.mtu == link.mtu:
        return ()
    return (set_value(link.index, goal.name, "mtu", goal.mtu, needed=False),)


def _master(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    """A port with a smaller MTU than its bridge's would drag the bridge's down (br_mtu_auto_adjust(),
    net/bridge/br_if.c), and the host's own traffic with it; so the bridge is given its MTU back, which also ends the
    dragging for good."""
    steps: list[LinkStep] = []
    moves = goal.master is not None and link.master != goal.master
    if moves and goal.master is not None:
        steps.append(set_master(link.index, goal.name, goal.master, goal.master_name))
    mtu = link.mtu if goal.mtu is None else goal.mtu
    if goal.master and (moves or mtu != link.mtu) and mtu < goal.master_mtu:
        steps.append(set_value(goal.master, goal.master_name, "mtu", goal.master_mtu, needed=False))
    return steps


def _flags(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    """A port that moves to another bridge has lost its flags there."""
    kept = link.flags_on if link.master == goal.master else frozenset[str]()
    return [
        SetLink(link.index, goal.name, flag, on, f"{flag} {'on' if on else 'off'}", bridge_flag=PORT_FLAGS[flag])
        for flag, on in goal.flags
        if (flag in kept) != on
    ]


def _sysctls(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    """A value that the kernel does not have for this link (a link without IPv6) can't be wrong."""
    if not goal.sysctls:
        return ()
    now = {each[:2]: each[2] for each in link.sysctls}
    return [
        SetSysctl(link.index, goal.name, Sysctl(version, goal.name, setting, value))
        for version, setting, value in goal.sysctls
        if now.get((version, setting), value) != value
    ]


def _up(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    return () if link.up else (set_up(link, goal.name),)


def _missing(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    """What the kernel takes only from a link that is up; without it no frame gets beyond the host."""
    if not (goal.addresses or goal.routes or goal.neighbours):
        return ()
    index, name = link.index, goal.name
    return (
        *(AddAddress(index, name, each) for each in goal.addresses if each not in link.addresses),
        *(SetNeighbour(index, name, each) for each in _ordered(goal.neighbours - link.neighbours)),
        *(AddRoute(index, name, each, replace=each in goal.taken) for each in _ordered(goal.routes - link.routes)),
    )


TABLE: tuple[Row, ...] = (
    _name,
    _address,
    _addr_gen_mode,
    _group,
    _surplus,
    _mtu,
    _master,
    _flags,
    _sysctls,
    _up,
    _missing,
)


def _ordered(things: Iterable[_T]) -> list[_T]:
    return sorted(things, key=str)
