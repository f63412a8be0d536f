"""What `xennetctl` is told: one row for each vif, one summary of the daemon. Plain values, ready for JSON.

Annotations here are evaluated (no `from __future__ import annotations`): the control interface's description is made
from them.
"""

from dataclasses import dataclass
from enum import StrEnum


class VifState(StrEnum):
    """Where a vif stands with us."""

    PENDING = "pending"
    CONNECTED = "connected"
    ERROR = "error"
    DETACHING = "detaching"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class VifStatus:
    """One vif. `since` is when `state` began, in seconds since the epoch; `duration_us` how long its attach took.

    `reason` says in words why a vif is pending, ignored or pinned; `error` is set in state `error` only.
    `uplink` and `gateways` (the host's addresses on the vif) are those of a guest that is routed.
    `tap` is the emulated NIC's tap: None (there is none), `connected`, or the error's sentence.
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
    """One network of the policy. `vifs` counts those that are in it; `problem` says why the host can't have it now."""

    name: str
    mode: str
    bridge: str | None
    subnets: list[str]
    uplink: str | None
    dhcp: bool
    vifs: int
    problem: str | None


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """The daemon as a whole. `counts` maps each VifState to how many vifs are in it; `since` is the start (epoch, s).

    `config` lists the files the policy was read from (empty: none, the stock rules hold). `problems` are sentences
    about what an administrator should look at, worst first; `notes` about what is as somebody wanted it and still worth
    remembering: guests that are denied, pins, settings that are not for every day.
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
