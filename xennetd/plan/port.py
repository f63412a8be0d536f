"""A guest's port: the Steps from what its link is to what it must be.

Rule 1: a link that was never connected is configured while it is down; it comes up last, in its place. What the kernel
takes only from a link that is up (addresses, neighbours, routes) follows; without it no frame gets beyond us.
Rule 2: a connected port is repaired or moved without taking it down, unless the kernel insists (a rename) or it is to
be routed instead of bridged.
"""

from __future__ import annotations

from collections.abc import Iterable

from xennetd.model.link import Link, LinkGoal
from xennetd.plan.properties import TABLE
from xennetd.plan.steps import LinkStep, set_down, set_master


def attach(goal: LinkGoal, link: Link, *, serves: bool, fresh: bool) -> tuple[LinkStep, ...]:
    """Return the Steps from `link` to `goal`.

    `serves`: a link that is up serves its guest as its placement does. `fresh`: this link was never connected.
    """
    steps: list[LinkStep] = []
    if link.up and (link.name != goal.name or not serves or (fresh and _must_be_down(goal, link))):
        down = set_down(link)
        steps.append(down)
        link = down.effect(link)
    for row in TABLE:
        steps += row(link, goal)
    return tuple(steps)


def _must_be_down(goal: LinkGoal, link: Link) -> bool:
    """Whether what is wrong with a link that was never connected must be put right while no frame passes it."""
    now = {each[:2]: each[2] for each in link.sysctls}
    return (
        goal.master not in (None, link.master)
        or any((flag in link.flags_on) != on for flag, on in goal.flags)
        or any(now.get(each[:2], each[2]) != each[2] for each in goal.sysctls)
    )


def release(link: Link) -> tuple[LinkStep, ...]:
    """Return the Steps that take a link out of service: down first, then out of its bridge.

    The kernel takes the routes and neighbours of a link that goes down.
    """
    steps: list[LinkStep] = []
    if link.up:
        steps.append(set_down(link))
    if link.master:
        steps.append(set_master(link.index, link.name, 0))
    return tuple(steps)


def apply(steps: Iterable[LinkStep], link: Link) -> Link:
    """Return what `link` is once `steps` have been done to it."""
    for step in steps:
        if step.index == link.index:
            link = step.effect(link)
    return link
