"""The facts about the host that a check of the policy needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xennetd.model.ip import IPInterface
from xennetd.model.manager_claim import ManagerClaims


@dataclass(frozen=True, slots=True)
class HostNotes:
    """Facts about the host. A fact is None where it is not known.

    `hooks` are the paths of the executable `vif-post.d/*.hook` files. `addresses` are the host's addresses by the name
    of their link, without the links that xennetd made. `listening` are the ports of the host's own programs that can be
    reached from outside, as ("tcp", 22). `exposed` are the sentences of `policy.files.exposed`. `no_dnsmasq` and
    `no_nftables` say why dnsmasq or nftables can't be used, and what to install; they are empty where the host has
    them. `root_links` are the links by which the root file system comes over the network, and those that they are built
    on. `root_unknown` are its disks and mounts that come by a link that can't be found. `claims` are what other network
    managers configure.
    """

    hooks: tuple[str, ...] = ()
    xl_devd: bool = False
    bridges: frozenset[str] | None = None
    links: frozenset[str] | None = None
    addresses: Mapping[str, tuple[IPInterface, ...]] | None = None
    listening: frozenset[tuple[str, int]] = frozenset()
    exposed: tuple[str, ...] = ()
    no_dnsmasq: str = ""
    no_nftables: str = ""
    no_control: str = ""
    root_links: frozenset[str] = frozenset()
    root_unknown: tuple[str, ...] = ()
    claims: ManagerClaims = ()
