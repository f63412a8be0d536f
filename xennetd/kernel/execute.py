"""Carries out Steps on links, and reports which Step the kernel refused and why."""

from __future__ import annotations

import errno
import os
from typing import Any, assert_never

from xennetd.kernel import netlink, rtnl, rtnl_ip
from xennetd.kernel.procsys import read_sysctl, write_sysctl
from xennetd.kernel.sockets import RequestSocket
from xennetd.model.objects import Sysctl
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
)


class StepRefused(Exception):
    """The kernel refused a Step.

    `errno` tells refusals apart. `reason` (strerror(3)) and `text` (the kernel's extended acknowledgement, or `reason`
    if there is none) are for people only.
    """

    def __init__(self, step: LinkStep, code: int, text: str) -> None:
        self.step = step
        self.errno = code
        self.reason = os.strerror(code)
        self.text = text or self.reason
        super().__init__(f"{step.describe()}: {self.text}")

    @property
    def link_gone(self) -> bool:
        """Whether the Step was refused because its link does not exist any more."""
        return self.errno in (errno.ENODEV, errno.ENXIO)

    @property
    def overtaken(self) -> bool:
        """Whether the Step was refused because another program took the link down or up after the observation.

        `plan.port.attach` brings a link up before it adds routes, and takes a link down before it renames it. So the
        kernel refuses such a Step because of IFF_UP only if the observed flag was out of date.
        """
        return self.errno == errno.ENETDOWN or (self.errno == errno.EBUSY and _renames(self.step))


def execute(socket: RequestSocket, steps: tuple[LinkStep, ...]) -> list[StepRefused]:
    """Carry out `steps` in order. A link comes up only after all needed Steps before it have succeeded.

    Returns the refusals of Steps that are not `needed`. Raises StepRefused for the first refused Step that is. A
    refusal because the link is already as the Step wants it is no refusal.
    """
    refused: list[StepRefused] = []
    burst: list[LinkStep] = []
    sure_of: tuple[int, str] | None = None
    for step in steps:
        if burst and (isinstance(step, SetSysctl | ResetSysctls) or _brings_up(step)):
            refused += _run(socket, burst)
            burst, sure_of = [], None
        if isinstance(step, SetSysctl | ResetSysctls):
            if sure_of != (link := _link_of(step)):
                _require_name(socket, step, *link)
                sure_of = link
            _write(step)
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
        if refusal.link_gone or not isinstance(step, SetLink) or step.needed:
            raise refusal
        refused.append(refusal)
    return refused


def _renames(step: LinkStep) -> bool:
    return isinstance(step, SetLink) and step.property == "name"


def _brings_up(step: LinkStep) -> bool:
    return isinstance(step, SetLink) and step.property == "up" and bool(step.value)


def _link_of(step: SetSysctl | ResetSysctls) -> tuple[int, str]:
    return step.index, step.sysctl.link if isinstance(step, SetSysctl) else step.name


def _require_name(socket: RequestSocket, step: SetSysctl | ResetSysctls, index: int, name: str) -> None:
    """Refuse the Step if its link does not have this name now, as if the link was gone: the view is about to know.

    The kernel has sysctls by name only, and another link may have taken the name since the observation.
    """
    if socket.index_of(name) != index:
        raise StepRefused(step, errno.ENODEV, "")


def _write(step: SetSysctl | ResetSysctls) -> None:
    """Write the sysctls of a Step. A setting to reset that this kernel does not have is skipped."""
    if isinstance(step, SetSysctl):
        _set(step, step.sysctl)
        return
    for version, setting in step.settings:
        default = read_sysctl(version, "default", setting)
        if default is not None:
            _set(step, Sysctl(version, step.name, setting, default))


def _set(step: SetSysctl | ResetSysctls, sysctl: Sysctl) -> None:
    try:
        write_sysctl(sysctl)
    except OSError as error:
        # A link without IPv6 neither forwards IPv6 nor accepts router advertisements, so the setting is not needed.
        if error.errno != errno.ENOENT or sysctl.version != 6:
            gone = error.errno == errno.ENOENT
            raise StepRefused(step, errno.ENODEV if gone else error.errno or errno.EIO, "") from error


def _needless(socket: RequestSocket, step: LinkStep, code: int) -> bool:
    """Return whether a refused Step was superfluous: what it removes is gone already, or what it adds exists already.

    addr_gen_mode: the kernel turns IPv6 off on a link whose MTU falls below 1280, but the link event with the new MTU
    still shows IPv6.
    """
    match step:
        case DeleteAddress():
            return code == errno.EADDRNOTAVAIL
        case SetLink(property="addr_gen_mode"):
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
    """Return whether the same route through the same link exists already."""
    wanted = rtnl_ip.RouteChange(step.index, step.route)
    return any(
        message.type == rtnl_ip.RTM_NEWROUTE and rtnl_ip.parse_route(data, message) == wanted
        for data in socket.dump_of(rtnl_ip.dump_our_routes, step.route.destination.version, step.index)
        for message in netlink.headers(data)
    )


def _request(step: LinkStep, seq: int) -> bytes:
    match step:
        case SetLink(bridge_flag=0):
            value: Any = step.value
            return rtnl.set_link(seq, step.index, **{"alias": step.alias, step.property: value})
        case SetLink():
            return rtnl.set_port_flag(seq, step.index, step.bridge_flag, bool(step.value))
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
        case SetSysctl() | ResetSysctls():
            raise AssertionError(f"{step.describe()} is no request to rtnetlink")
        case _:
            assert_never(step)
