"""Carries out Steps on links, and says which Step the kernel refused and why."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import assert_never

from xennetd.kernel import netlink, rtnl, rtnl_ip
from xennetd.kernel.sockets import RequestSocket
from xennetd.model.ground import GUEST_GROUP, Setting
from xennetd.model.link import IN6_ADDR_GEN_MODE_NONE
from xennetd.plan.steps import (
    AddAddress,
    AddRoute,
    DeleteAddress,
    DeleteNeighbour,
    DeleteRoute,
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
)

_SYSCTL = Path("/proc/sys")


class StepRefused(Exception):
    """The kernel refused a Step. `text` is its extended acknowledgement, for people only."""

    def __init__(self, step: LinkStep, code: int, text: str) -> None:
        self.step = step
        self.errno = code
        self.reason = os.strerror(code)
        self.text = text or self.reason
        super().__init__(f"{step.describe()}: {self.text}")

    @property
    def link_gone(self) -> bool:
        """Whether the link the Step was for does not exist any more."""
        return self.errno in (errno.ENODEV, errno.ENXIO)

    @property
    def overtaken(self) -> bool:
        """Whether another program took the link down, or brought it up, after it was looked at.

        `plan.port.attach` puts a SetUp before the routes of a link that is down, and a SetDown before the Rename of one
        that is up. So the kernel refuses such a Step for the link's flag only when the look had the flag wrong.
        """
        return self.errno == errno.ENETDOWN or (self.errno == errno.EBUSY and isinstance(self.step, Rename))


def execute(socket: RequestSocket, steps: tuple[LinkStep, ...]) -> list[StepRefused]:
    """Carry out `steps` in order. A link comes up only when everything that was needed before it has succeeded.

    Returns the refusals of Steps that are not needed, and raises StepRefused for the first one that is. A Step that
    there is nothing to do for any more is not refused.
    """
    refused: list[StepRefused] = []
    burst: list[LinkStep] = []
    for step in steps:
        if burst and isinstance(step, SetUp | SetSetting):
            refused += _run(socket, burst)
            burst = []
        if isinstance(step, SetSetting):
            _set(step)
        else:
            burst.append(step)
    if burst:
        refused += _run(socket, burst)
    return refused


def _run(socket: RequestSocket, steps: list[LinkStep]) -> list[StepRefused]:
    refused: list[StepRefused] = []
    acks, _ = socket.ask([_request(step, socket.next_seq()) for step in steps])
    for step, ack in zip(steps, acks, strict=True):
        if not ack.errno or _needless(socket, step, ack.errno):
            continue
        refusal = StepRefused(step, ack.errno, ack.text)
        if refusal.link_gone or not isinstance(step, SetMtu) or step.needed:
            raise refusal
        refused.append(refusal)
    return refused


def _set(step: SetSetting) -> None:
    try:
        write_setting(step.setting)
    except OSError as error:
        # A link without IPv6 forwards none and takes no router's word: what the setting is for is so.
        if error.errno != errno.ENOENT or step.setting.version != 6:
            gone = error.errno == errno.ENOENT
            raise StepRefused(step, errno.ENODEV if gone else error.errno or errno.EIO, "") from error


def write_setting(setting: Setting) -> None:
    """Write a value of /proc/sys. Raises OSError."""
    with (_SYSCTL / setting.path).open("w") as file:
        file.write(str(setting.value))


def _needless(socket: RequestSocket, step: LinkStep, code: int) -> bool:
    """Whether a Step was refused because what it asks for is so: what it is against is gone, or what it adds is there.

    IPv6 leaves a link whose MTU falls below 1280, and the event that tells of the MTU still shows it there.
    """
    match step:
        case DeleteAddress():
            return code == errno.EADDRNOTAVAIL
        case SetAddrGenMode():
            return code == errno.EAFNOSUPPORT
        case DeleteRoute():
            return code == errno.ESRCH
        case DeleteNeighbour():
            return code == errno.ENOENT
        case AddAddress():
            return code == errno.EEXIST
        case AddRoute():
            return code == errno.EEXIST and _is_there(socket, step)
    return False


def _is_there(socket: RequestSocket, step: AddRoute) -> bool:
    """Whether the route through the very same link is already there."""
    wanted = rtnl_ip.RouteChange(step.index, step.route)
    return any(
        message.type == rtnl_ip.RTM_NEWROUTE and rtnl_ip.parse_route(data, message) == wanted
        for data in socket.dump_of(rtnl_ip.dump_our_routes, step.route.destination.version, step.index)
        for message in netlink.headers(data)
    )


def _request(step: LinkStep, seq: int) -> bytes:
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
        case SetMtu():
            return rtnl.set_link(seq, step.index, mtu=step.mtu)
        case SetMaster():
            return rtnl.set_link(seq, step.index, master=step.master)
        case SetGroup():
            return rtnl.set_link(seq, step.index, group=GUEST_GROUP if step.routed else 0)
        case AddAddress():
            return rtnl_ip.add_address(seq, step.index, step.address)
        case DeleteAddress():
            return rtnl_ip.delete_address(seq, step.index, step.address)
        case AddRoute():
            return rtnl_ip.add_route(seq, step.index, step.route, replace=step.replace)
        case DeleteRoute():
            return rtnl_ip.delete_route(seq, step.index, step.route)
        case SetNeighbour():
            return rtnl_ip.set_neighbour(seq, step.index, step.neighbour)
        case DeleteNeighbour():
            return rtnl_ip.delete_neighbour(seq, step.index, step.neighbour.address)
        case SetSetting():
            raise AssertionError(f"{step.describe()} is no request to rtnetlink")
        case _:
            assert_never(step)
