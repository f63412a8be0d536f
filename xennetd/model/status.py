"""The status that `xennetctl` shows: one row for each vif, and one summary of the daemon. Plain values, ready for JSON.

This module has no `from __future__ import annotations`: the description of the control interface is generated from the
evaluated annotations.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class VifState(StrEnum):
    """The state of a vif, as `xennetctl list` shows it."""

    PENDING = "pending"
    CONNECTED = "connected"
    ERROR = "error"
    DETACHING = "detaching"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class VifStatus:
    """One vif.

    `since` is when `state` began, in seconds since the epoch. `duration_us` is how long the attach took, in
    microseconds. `reason` says in words why a vif is pending, ignored or pinned. `error` is set in state `error` only.
    `uplink` and `gateways` (the host's addresses on the vif) are set for a routed guest only. `tap` is the state of the
    emulated NIC's tap: None (the vif has no tap), `connected`, or the sentence of the error.
    """

    vif: str
    domid: int
    devid: int
    vm: str | None
    uuid: str | None
    mac: str | None
    ips: list[str]
    network: str | None
    mode: str | None
    bridge: str | None
    vlan: str | None
    state: str
    error: str | None
    since: float
    reason: str | None = None
    policy: str | None = None
    link: str | None = None
    ifindex: int | None = None
    mtu: int | None = None
    uplink: str | None = None
    gateways: list[str] | None = None
    tap: str | None = None
    pinned: bool = False
    script: str | None = None
    duration_us: int | None = None
    warnings: list[str] | None = None


@dataclass(frozen=True, slots=True)
class NetworkStatus:
    """One network of the policy. `vifs` counts the vifs in it. `problem` says why the network is not ready now."""

    name: str
    mode: str
    bridge: str | None
    subnets: list[str]
    uplink: str | None
    dhcp: bool
    vifs: int
    problem: str | None


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """One link of the host, for the picture of its topology.

    `kind` is the kernel's, `nic` for hardware and what stands for it. `below` names the links that this link is built
    on: a VLAN's parent, the ports of a bridge or a bond without those of guests. `what` says what is special about it
    (a bond's mode, a VLAN's number). `up` says that the link is to work, `carrier` that it does. `ours` says that
    xennetd made it. `vif` is the guest's interface that the link is; then `below` is empty and `master` is the bridge.
    `speed` is that of a NIC or a bond, in Mbit/s; None where it is unknown, and without carrier.
    """

    name: str
    kind: str
    below: list[str]
    what: str
    addresses: list[str]
    mtu: int
    mac: str
    up: bool
    carrier: bool
    ours: bool
    master: str | None = None
    vif: str | None = None
    vm: str | None = None
    state: str | None = None
    speed: int | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """What an apply would do, or has done.

    `steps` are those on the host's own links, in the words of ip(8). `guests` has a line for each change of guests,
    with their names. `problems` are sentences: why nothing is done (`refused`), or what could not be done. `notes` are
    sentences about what the kernel or another program does then.
    """

    steps: list[str]
    problems: list[str]
    refused: bool = False
    guests: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """The daemon as a whole.

    `counts` maps a VifState to the number of vifs in that state. `since` is when the daemon started, in seconds since
    the epoch. `config` lists the files that the policy was read from; it is empty where the stock rules hold.
    `problems` are sentences, worst first, about conditions that an administrator should correct. `notes` are sentences
    about conditions that somebody has set on purpose: denied guests, pins, unusual settings.
    """

    version: str
    pid: int
    mode: str
    ready: bool
    since: float
    domid: int
    config: list[str]
    networks: list[NetworkStatus]
    counts: dict[str, int]
    pinned: list[str]
    xenstore: str
    audit_dropped: int
    netlink_resyncs: int
    xenstore_reconnects: int
    problems: list[str]
    notes: list[str]
