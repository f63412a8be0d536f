"""Carries out Steps by rtnetlink, and says which Step the kernel refused and why."""

from __future__ import annotations

import errno
import os
from typing import assert_never

from xennetd.kernel import rtnl
from xennetd.kernel.sockets import RequestSocket
from xennetd.model.link import IN6_ADDR_GEN_MODE_NONE
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


class StepRefused(Exception):
    """The kernel refused a Step. `text` is its extended acknowledgement, for people only."""

    def __init__(self, step: Step, code: int, text: str) -> None:
        self.step = step
        self.errno = code
        self.reason = os.strerror(code)
        self.text = text or self.reason
        super().__init__(f"{step.describe()}: {self.text}")

    @property
    def link_gone(self) -> bool:
        """Whether the link the Step was for does not exist any more."""
        return self.errno in (errno.ENODEV, errno.ENXIO)


def execute(socket: RequestSocket, steps: tuple[Step, ...]) -> list[StepRefused]:
    """Carry out `steps` in order. A link comes up only when everything that was needed before it has succeeded.

    Returns the refusals of Steps that are not needed, and raises StepRefused for the first one that is. A Step that
    there is nothing to do for any more is not refused.
    """
    refused: list[StepRefused] = []
    batch: list[Step] = []
    for step in steps:
        if isinstance(step, SetUp) and batch:
            refused += _run(socket, batch)
            batch = []
        batch.append(step)
    if batch:
        refused += _run(socket, batch)
    return refused


def _run(socket: RequestSocket, steps: list[Step]) -> list[StepRefused]:
    refused: list[StepRefused] = []
    acks, _ = socket.ask([_request(step, socket.next_seq()) for step in steps])
    for step, ack in zip(steps, acks, strict=True):
        if not ack.errno or _needless(step, ack.errno):
            continue
        refusal = StepRefused(step, ack.errno, ack.text)
        if refusal.link_gone or not isinstance(step, SetMtu) or step.needed:
            raise refusal
        refused.append(refusal)
    return refused


def _needless(step: Step, code: int) -> bool:
    """Whether a Step was refused because what it is against is gone: an address, or IPv6 from a link.

    IPv6 leaves a link whose MTU falls below 1280, and the event that tells of the MTU still shows it there.
    """
    match step:
        case DeleteAddress():
            return code == errno.EADDRNOTAVAIL
        case SetAddrGenMode():
            return code == errno.EAFNOSUPPORT
    return False


def _request(step: Step, seq: int) -> bytes:
    match step:
        case SetDown():
            return rtnl.set_link(seq, step.index, up=False)
        case SetUp():
            return rtnl.set_link(seq, step.index, up=True)
        case Rename():
            return rtnl.set_link(seq, step.index, name=step.to)
        case SetAddress():
            return rtnl.set_link(seq, step.index, address=step.address)
        case SetAddrGenMode():
            return rtnl.set_link(seq, step.index, addr_gen_mode=IN6_ADDR_GEN_MODE_NONE)
        case DeleteAddress():
            return rtnl.delete_address(seq, step.index, step.address)
        case SetMtu():
            return rtnl.set_link(seq, step.index, mtu=step.mtu)
        case SetMaster():
            return rtnl.set_link(seq, step.index, master=step.master)
        case _:
            assert_never(step)
