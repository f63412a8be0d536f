"""The table of a guest link's properties. Each row is one property; the order of the rows is the order of the Steps.

A row compares a link with its goal in one property and returns the Steps that correct it. A Step's `effect` says what
the Step does to a link; kernel/execute.py turns the Step into a request. A flag of a bridge's port is one entry of
`PORT_FLAGS`: its name in a policy, and the IFLA_BRPORT_* attribute (linux/if_link.h) that reads and sets it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from xennetd.model.link import Link, LinkGoal, Route
from xennetd.model.marks import GUEST_GROUP, is_port_alias, is_port_group, port_group
from xennetd.model.objects import Sysctl
from xennetd.model.placement import SETTINGS_OF_ROUTED
from xennetd.plan.steps import (
    AddAddress,
    AddRoute,
    DeleteAddress,
    DeleteNeighbour,
    DeleteRoute,
    LinkStep,
    ResetSysctls,
    SetLink,
    SetNeighbour,
    SetSysctl,
    set_master,
    set_up,
    set_value,
)

Row = Callable[[Link, LinkGoal], Iterable[LinkStep]]

_T = TypeVar("_T")

_NO_ROUTES: frozenset[Route] = frozenset()

PORT_FLAGS: dict[str, int] = {
    "isolated": 33,  # the port's frames go to ports that are not isolated, and to the bridge itself
}


def _name(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    return (set_value(link.index, link.name, "name", goal.name),) if link.name != goal.name else ()


def _address(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    return (set_value(link.index, goal.name, "address", goal.address),) if link.address != goal.address else ()


def _addr_gen_mode(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    """Set addr_gen_mode. With IN6_ADDR_GEN_MODE_NONE a link that comes up gets no IPv6 link-local address.

    The alias goes with it: by itself it would cause another event.
    """
    if link.addr_gen_mode == goal.addr_gen_mode:
        return ()
    alias = goal.alias if _lacks_alias(link, goal) else None
    return (SetLink(link.index, goal.name, "addr_gen_mode", goal.addr_gen_mode, "addrgenmode none", alias=alias),)


def _former_sysctls(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    """Reset the sysctls that the link has as a routed guest's, or as one with IPv6 addresses, and needs no more.

    The group and the gateway's IPv6 addresses say that the link has them. Both are changed later, so that the reset is
    done in the end even if the daemon is killed in between.
    """
    if link.group != GUEST_GROUP:
        return ()
    if goal.group != GUEST_GROUP:
        return (ResetSysctls(link.index, goal.name, SETTINGS_OF_ROUTED),)
    if any(address.version == 6 for address in link.addresses) and all(
        address.version == 4 for address in goal.addresses
    ):
        needed = {sysctl[:2] for sysctl in goal.sysctls}
        surplus = (item for item in SETTINGS_OF_ROUTED if item[0] == 6 and item not in needed)
        return (ResetSysctls(link.index, goal.name, tuple(surplus)),)
    return ()


def _group(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    """Put the link into the group of its placement, or into the one that stands for an alias that the link can't have.

    Else a link stays in any group that is not xennetd's. The nftables rules check the source address of packets from
    links in GUEST_GROUP.
    """
    ours = link.group == GUEST_GROUP or is_port_group(link.group)
    group = goal.group
    if not group and not ours and link.group:
        return ()
    if not group and goal.alias and link.alias and not is_port_alias(link.alias):
        group = port_group(goal.alias)
    if link.group == group:
        return ()
    needed = GUEST_GROUP in (group, link.group)
    return (set_value(link.index, goal.name, "group", group, needed=needed),)


def _surplus(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    """Delete surplus routes, neighbours and addresses, before the link gets its new place."""
    if not (link.routes or link.neighbours or link.addresses):
        return ()
    index, name = link.index, goal.name
    replaced = _replaced(link, goal)
    sources = {route.source for route in replaced}
    addresses = {address for address in set(link.addresses) - set(goal.addresses) if address.ip not in sources}
    return (
        *(DeleteRoute(index, name, route) for route in _ordered(link.routes - goal.routes - replaced)),
        *(DeleteNeighbour(index, name, neighbour) for neighbour in _ordered(link.neighbours - goal.neighbours)),
        *(DeleteAddress(index, name, address) for address in _ordered(addresses)),
    )


def _replaced(link: Link, goal: LinkGoal) -> frozenset[Route]:
    """Return the routes that differ from a route of the goal in their source only."""
    surplus, missing = link.routes - goal.routes, goal.routes - link.routes
    if not (surplus and missing):
        return _NO_ROUTES
    keys = {(route.destination, route.metric) for route in missing}
    return frozenset(route for route in surplus if (route.destination, route.metric) in keys)


def _mtu(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    if goal.mtu is None or goal.mtu == link.mtu:
        return ()
    return (set_value(link.index, goal.name, "mtu", goal.mtu, needed=False),)


def _master(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    """Make the link a port of its bridge, and give the bridge its MTU back if the port's is smaller.

    A port with a smaller MTU lowers the bridge's MTU (br_mtu_auto_adjust(), net/bridge/br_if.c), which concerns the
    host's own traffic. An MTU that was set on the bridge itself is not adjusted any more.
    """
    steps: list[LinkStep] = []
    moves = goal.master is not None and link.master != goal.master
    if moves and goal.master is not None:
        alias = goal.alias if link.addr_gen_mode == goal.addr_gen_mode and _lacks_alias(link, goal) else None
        steps.append(set_master(link.index, goal.name, goal.master, goal.master_name, alias))
    mtu = link.mtu if goal.mtu is None else goal.mtu
    if goal.master and (moves or mtu != link.mtu) and mtu < goal.master_mtu:
        steps.append(set_value(goal.master, goal.master_name, "mtu", goal.master_mtu, needed=False))
    return steps


def _alias(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    """Set the alias, unless the Step for addr_gen_mode or for the master does that already."""
    if not _lacks_alias(link, goal) or link.addr_gen_mode != goal.addr_gen_mode:
        return ()
    if goal.master not in (None, link.master):
        return ()
    return (set_value(link.index, goal.name, "alias", goal.alias, needed=False),)


def _lacks_alias(link: Link, goal: LinkGoal) -> bool:
    return link.alias != goal.alias and (not link.alias or is_port_alias(link.alias))


def _flags(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    """Set the bridge port's flags. A port that moves to another bridge loses all its flags."""
    kept = link.flags_on if link.master == goal.master else frozenset[str]()
    return [
        SetLink(link.index, goal.name, flag, on, f"{flag} {'on' if on else 'off'}", bridge_flag=PORT_FLAGS[flag])
        for flag, on in goal.flags
        if (flag in kept) != on
    ]


def _sysctls(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    """Set sysctls. A sysctl that the kernel does not have for this link (IPv6 is off) counts as right."""
    if not goal.sysctls:
        return ()
    now = {(version, setting): value for version, setting, value in link.sysctls}
    return [
        SetSysctl(link.index, goal.name, Sysctl(version, goal.name, setting, value))
        for version, setting, value in goal.sysctls
        if now.get((version, setting), value) != value
    ]


def _up(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    return () if link.up else (set_up(link, goal.name),)


def _missing(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    """Add missing addresses, neighbours and routes. The kernel takes them only for a link that is up.

    Until then no frame of the guest gets beyond the host, so the link may be up before them.
    """
    if not (goal.addresses or goal.routes or goal.neighbours):
        return ()
    index, name = link.index, goal.name
    replaced = {(route.destination, route.metric) for route in _replaced(link, goal)}
    return (
        *(AddAddress(index, name, address) for address in goal.addresses if address not in link.addresses),
        *(SetNeighbour(index, name, neighbour) for neighbour in _ordered(goal.neighbours - link.neighbours)),
        *(
            AddRoute(index, name, route, replace=route in goal.taken or (route.destination, route.metric) in replaced)
            for route in _ordered(goal.routes - link.routes)
        ),
    )


def _former_sources(link: Link, goal: LinkGoal) -> Iterable[LinkStep]:
    """Delete the surplus addresses that were sources of routes, now that these routes have other sources.

    The kernel deletes an IPv4 route along with the address that is its source (fib_sync_down_addr(),
    net/ipv4/fib_semantics.c), so an earlier deletion would leave the guest without a route for a moment.
    """
    if not link.addresses:
        return ()
    sources = {route.source for route in _replaced(link, goal)}
    surplus = {address for address in set(link.addresses) - set(goal.addresses) if address.ip in sources}
    return [DeleteAddress(link.index, goal.name, address) for address in _ordered(surplus)]


TABLE: tuple[Row, ...] = (
    _name,
    _address,
    _addr_gen_mode,
    _former_sysctls,
    _group,
    _surplus,
    _mtu,
    _master,
    _alias,
    _flags,
    _sysctls,
    _up,
    _missing,
    _former_sources,
)


def unroute(link: Link) -> Iterable[LinkStep]:
    """Return the Steps that take from a link what only a routed guest's has: sysctls, addresses, and then the group.

    The group says that the link has the sysctls, so that these are reset in the end whenever the daemon is killed.
    """
    goal = LinkGoal(link.name)
    return (*_former_sysctls(link, goal), *_surplus(link, goal), *_group(link, goal))


def _ordered(items: Iterable[_T]) -> list[_T]:
    return sorted(items, key=str)
