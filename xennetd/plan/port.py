"""A guest's port: the Steps from the state of its link to its goal.

Rule 1: a link that was never connected is configured while it is down, and comes up last. Addresses, neighbours and
routes follow, because the kernel takes them only for a link that is up; without them no frame gets beyond the host.
Rule 2: a connected port is repaired or moved without taking it down, unless the kernel requires that (a rename), the
port changes between bridged and routed, or flags must be on in the new bridge: a port joins a bridge without flags.
"""

from __future__ import annotations

from collections.abc import Iterable

from xennetd.model.link import Link, LinkGoal
from xennetd.model.marks import is_port_alias
from xennetd.model.placement import idle_master
from xennetd.plan.properties import TABLE, unroute
from xennetd.plan.steps import LinkStep, set_down, set_master, set_value


def attach(goal: LinkGoal, link: Link, *, serves: bool, fresh: bool) -> tuple[LinkStep, ...]:
    """Return the Steps from `link` to `goal`.

    `serves` says whether the link, when up, serves its guest in the way of its placement (bridged or routed). `fresh`
    says that this link was never connected.
    """
    steps: list[LinkStep] = []
    down_first = link.name != goal.name or not serves or _joins_with_flags(goal, link)
    if link.up and (down_first or (fresh and _must_be_down(goal, link))):
        down = set_down(link)
        steps.append(down)
        link = down.effect(link)
    for row in TABLE:
        steps += row(link, goal)
    return tuple(steps)


def _must_be_down(goal: LinkGoal, link: Link) -> bool:
    """Return whether a link that was never connected differs from its goal in a way that is corrected only while down.

    No frame may pass before the bridge, the port's flags and the sysctls are right.
    """
    now = {(version, setting): value for version, setting, value in link.sysctls}
    return (
        goal.master not in (None, link.master)
        or any((flag in link.flags_on) != on for flag, on in goal.flags)
        or any(now.get((version, setting), value) != value for version, setting, value in goal.sysctls)
    )


def _joins_with_flags(goal: LinkGoal, link: Link) -> bool:
    return goal.master not in (None, 0, link.master) and any(on for _, on in goal.flags)


def release(link: Link) -> tuple[LinkStep, ...]:
    """Return the Steps after which a link has no place on the host: those of `stop`, and a routed guest's things go."""
    steps = stop(link)
    return (*steps, *unroute(apply(steps, link)))


def stop(link: Link) -> tuple[LinkStep, ...]:
    """Return the Steps that take a link out of service, as its placement has it: down first, then out of its bridge."""
    master = idle_master(link)
    down = (set_down(link),) if link.up else ()
    alias = "" if is_port_alias(link.alias) else None
    if link.master != master:
        return (*down, set_master(link.index, link.name, master, alias=alias))
    return (*down, set_value(link.index, link.name, "alias", alias, needed=False)) if alias is not None else down


def apply(steps: Iterable[LinkStep], link: Link) -> Link:
    """Return the state of `link` after `steps`. Steps for other links are skipped."""
    for step in steps:
        if step.index == link.index:
            link = step.effect(link)
    return link
