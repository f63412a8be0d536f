"""Turns the kernel's refusal of a Step into a sentence for users. Refusals are told apart by errno, never by text."""

from __future__ import annotations

import errno

from xennetd.model.errors import HostError
from xennetd.model.vif import Vif
from xennetd.plan.steps import LinkStep, SetLink, Step

BRIDGE_PORTS = 1023
"""BR_MAX_PORTS of net/bridge/br_private.h, without port 0."""


def refusal(vif: Vif, step: LinkStep, code: int, reason: str, text: str) -> HostError:
    """Return the error for a refused Step.

    `code` is the errno, `reason` its meaning (strerror(3)), and `text` the message of the kernel's extended
    acknowledgement, or `reason` again. The error waits on the bridge or the link name that the refusal is about.
    """
    waits_on: frozenset[str] = frozenset()
    match step:
        case SetLink(property="master", value=master) if master:
            bridge = step.words.partition(" ")[2]
            waits_on = frozenset({bridge})
            sentence = f'the kernel refuses {vif.id} as a port of bridge "{bridge}": {reason}'
            if code == errno.EXFULL:
                sentence = f'bridge "{bridge}" is full: a Linux bridge takes {BRIDGE_PORTS:,} ports'
        case SetLink(property="name", value=str(name)) if code == errno.EEXIST:
            sentence = f'the interface name "{name}" is already in use on this host'
            waits_on = frozenset({name})
        case SetLink(property="mtu", value=mtu) if code == errno.EINVAL:
            sentence = f"the kernel does not take an MTU of {mtu} for {vif.id}"
        case _:
            sentence = f"the kernel refused a step for {vif.id}: {reason}"
    detail = f"{sentence} ({step.describe()}: {text})"
    return HostError(sentence, errno=code, detail=detail, waits_on=waits_on)


def not_taken(vif: Vif, steps: tuple[Step, ...]) -> HostError:
    """Return the error for Steps that the kernel acknowledged, although a new observation calls for them again."""
    todo = "; ".join(step.describe() for step in steps)
    return HostError(
        f"the link of {vif.id} does not stay as it was set",
        detail=f"{vif.id}: the kernel accepted these steps, but they are needed again: {todo}; "
        "is another program configuring this link?",
    )
